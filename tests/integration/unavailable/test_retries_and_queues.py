"""How hard a server is tried, how much waits for it, and on how many connections."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import httpx2
import pytest
from starlette.types import ASGIApp

from redis_sessions import ConfigurationError, RedisStore, SessionManager, StoreUnavailableError
from redis_sessions.stores import queues
from tests.integration.unavailable.outages import TIMEOUT, assert_unavailable, hang, resume
from tests.support.apps import client_of, doing, manager_on
from tests.support.asgi import COOKIE
from tests.support.servers import Server

# -- attempts


class _Listener:
    """A port at which nobody answers; it counts who tries."""

    def __init__(self, *, hangs_up: bool) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._hangs_up = hangs_up
        self._held: list[socket.socket] = []
        self.count = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.count += 1
            if self._hangs_up:
                connection.close()
            else:
                self._held.append(connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        for connection in (self._socket, *self._held):
            connection.close()


@contextmanager
def listening(*, hangs_up: bool) -> Generator[_Listener, None, None]:
    listener = _Listener(hangs_up=hangs_up)
    try:
        yield listener
    finally:
        listener.close()


async def statuses(app: ASGIApp, count: int) -> list[int]:
    async with client_of(app) as browser:
        headers = [{"Cookie": f"{COOKIE}={number:064d}"} for number in range(count)]
        responses = await asyncio.gather(*(browser.get("/do", headers=h) for h in headers))
    return [response.status_code for response in responses]


async def test_few_wait_for_a_server_that_hangs() -> None:
    """A hundred requests at once share one attempt; later ones fail fast but for one probe."""
    with listening(hangs_up=False) as listener:
        url = f"redis://127.0.0.1:{listener.port}/0"
        app = doing(manager=manager_on(url, timeout=TIMEOUT))
        for wave in range(1, 4):
            begun = time.monotonic()
            assert await statuses(app, 100) == [503] * 100
            assert time.monotonic() - begun < 10 * TIMEOUT
            assert listener.count <= wave


async def test_few_try_a_server_that_hangs_up() -> None:
    """Where connections are cut at once, the number of attempts is bounded, too."""
    with listening(hangs_up=True) as listener:
        url = f"redis://127.0.0.1:{listener.port}/0"
        app = doing(manager=manager_on(url, timeout=TIMEOUT))
        for _ in range(3):
            assert await statuses(app, 100) == [503] * 100
        assert listener.count <= 30


async def test_failing_fast_doesnt_wait(private: Server, manager: SessionManager) -> None:
    """While one probe waits for a hanging server, the other requests are answered at once."""
    app = doing(manager=manager)
    hang(private)
    assert await statuses(app, 1) == [503]
    async with client_of(app, "x" * 64) as browser:
        probe = asyncio.create_task(browser.get("/do"))
        others: list[asyncio.Task[httpx2.Response]] = []
        while not probe.done():
            others.append(asyncio.create_task(browser.get("/do")))
            await asyncio.wait([probe, others[-1]], return_when=asyncio.FIRST_COMPLETED)
        assert len(others) > 10
        for task in (probe, *others):
            assert_unavailable(await task)
    resume(private)


async def test_it_is_logged_once(
    private: Server, manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    """Going and coming back are a line each, not a line for each request."""
    app = doing(manager=manager)
    await statuses(app, 3)
    private.kill()
    for _ in range(5):
        await statuses(app, 3)
    private.start()
    await statuses(app, 3)
    records = [r for r in caplog.records if r.name == "redis_sessions"]
    assert [r.levelno for r in records] == [logging.ERROR, logging.WARNING]


# -- queues and connections


async def test_a_full_queue(private: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much load is a 503 of its own kind: who waits is still served, nobody is away."""
    monkeypatch.setattr(queues, "CAPACITY_ITEMS", 4)
    manager = manager_on(private.url, timeout=2.0)
    app = doing(manager=manager)
    assert await statuses(app, 2) == [200] * 2  # together: so that they queue from now on
    hang(private)
    async with client_of(app) as browser:
        tasks = [
            asyncio.create_task(browser.get("/do", headers={"Cookie": f"{COOKIE}={number:064d}"}))
            for number in range(20)
        ]
        done: set[asyncio.Task[httpx2.Response]] = set()
        pending = set(tasks)
        while len(done) < 16:
            some, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            done |= some
        for task in done:
            assert_unavailable(task.result())
        resume(private)
        assert [(await task).status_code for task in pending] == [200] * 4
    assert await statuses(app, 4) == [200] * 4
    loads = (manager.load(f"{number:064d}") for number in range(5))
    results = await asyncio.gather(*loads, return_exceptions=True)
    (error,) = [result for result in results if isinstance(result, BaseException)]
    assert isinstance(error, StoreUnavailableError)
    assert error.reason == "full"


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_connections(count: int) -> None:
    """A pool that a process can't work with is refused where it is written."""
    with pytest.raises(ConfigurationError, match="write 8 or more"):
        RedisStore(f"redis://localhost?max_connections={count}")

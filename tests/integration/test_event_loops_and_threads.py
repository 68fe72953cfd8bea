"""One store in any event loop and thread, and nothing left open behind it."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
import weakref
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from redis_sessions import RedisStore, SessionManager, get_session
from redis_sessions.session.token import SessionToken
from tests.integration.cluster_slots import MINUTE, record
from tests.support import LOOPS
from tests.support.apps import BASE, client_of, doing, manager_on, signed_in
from tests.support.asgi import KEY
from tests.support.deployments import until
from tests.support.redis_wire import Monitor, Wire
from tests.support.servers import StartServer


async def write(manager: SessionManager, value: Any, token: str | None = None) -> str:
    session = await manager.load(token)
    session["value"] = value
    answer = await manager.commit(session)
    stored = token if answer.token is None else answer.token.value
    assert stored is not None
    return stored


async def read(manager: SessionManager, token: str) -> Any:
    return (await manager.load(token)).get("value")


def is_alone(redis: Wire) -> bool:
    """Whether the server has no other connection (the last may be closing now)."""
    deadline = time.monotonic() + 5
    while redis.clients():
        if time.monotonic() > deadline:
            return False
    return True


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_asyncio_and_uvloop(redis_url: str, prefix: str) -> None:
    """The same on both event loops, many requests at once."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        token = await signed_in(browser)
        async with asyncio.TaskGroup() as tasks:
            for number in range(30):
                tasks.create_task(browser.get(f"/do?set=k{number}:{number}"))
        expected = {f"k{number}": str(number) for number in range(30)}
        assert (await browser.get("/do")).json() == {"user_id": "alice", **expected}
        assert token == browser.cookies["__Host-session"]


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize("turn", [1, 2])
async def test_an_application_of_the_module(
    module_app: Starlette, anyio_backend: Any, turn: int
) -> None:
    """An application that lives longer than the loop of one test."""
    async with client_of(module_app) as browser:
        await signed_in(browser, str(turn))
        assert (await browser.get("/do")).json() == {"user_id": str(turn)}


@pytest.fixture(scope="module")
def module_app(redis_url: str) -> Starlette:
    return doing(store=redis_url, prefix="session:loops:", secret_key=KEY)


def test_the_test_client_with_and_without_lifespan(start_server: StartServer) -> None:
    """TestClient without `with` has a loop for each request: it works, and leaves nothing open."""

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(websocket.session)
        get_session(websocket)["socket"] = 1
        await websocket.close()

    server = start_server()
    app = doing(WebSocketRoute("/ws", socket), store=server.url, secret_key=KEY)
    with Wire(server.port) as redis:
        browser = TestClient(app, base_url=BASE)
        for number in range(5):
            browser.get(f"/do?set=n:{number}")
            assert browser.get("/do").json()["n"] == str(number)
            assert is_alone(redis)
        with browser.websocket_connect("wss://testserver/ws") as connection:
            assert connection.receive_json() == {"n": "4"}
        assert browser.get("/do").json() == {"n": "4", "socket": 1}
        browser.close()
        assert is_alone(redis)
        for _ in range(2):
            with TestClient(app, base_url=BASE) as browser:
                browser.get("/do?set=a:1")
                assert browser.get("/do").json() == {"a": "1"}
                assert redis.clients() >= 1
            assert is_alone(redis)


@pytest.mark.parametrize("run", [asyncio.run, "uvloop"])
def test_many_runs_in_a_row(start_server: StartServer, run: Any) -> None:
    """One store in many asyncio.run(): each closes its connections, and its loop is forgotten."""
    if run == "uvloop":
        import uvloop

        run = uvloop.run
    server = start_server()
    manager = manager_on(server.url)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def turn(number: int) -> str:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        if number:
            assert await read(manager, token) == number - 1
        return await write(manager, number, token if number else None)

    token = ""
    with Wire(server.port) as redis:
        for number in range(20):
            token = run(turn(number))
            assert is_alone(redis)
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 1


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, "uvloop"])
def test_a_loop_that_ends_while_a_write_is_under_way(
    start_server: StartServer, loop_factory: Any
) -> None:
    """It isn't sent again over a new connection, which nobody would close."""
    if loop_factory == "uvloop":
        import uvloop

        loop_factory = uvloop.new_event_loop
    server = start_server()

    async def write_and_leave() -> asyncio.AbstractEventLoop:
        store = RedisStore(server.url)
        await store.connect()
        redis.ask("CLIENT", "PAUSE", "60000", "WRITE")
        stores.append((store, asyncio.ensure_future(store.commit(id, None, record(), MINUTE))))

        async def sent() -> bool:
            return b"blocked_clients:1" in redis.ask("INFO", "clients")

        await until(sent)
        return asyncio.get_running_loop()

    stores = list[Any]()
    id = SessionToken.generate().id
    with Wire(server.port) as redis:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            loop = runner.run(write_and_leave())
        assert asyncio.all_tasks(loop) == set()
        redis.ask("CLIENT", "UNPAUSE")
        assert is_alone(redis)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, "uvloop"])
def test_what_a_cancelled_task_asks_at_the_end(
    start_server: StartServer, loop_factory: Any
) -> None:
    """It waits for no link whose opening was broken off before it began: the loop would not end."""
    if loop_factory == "uvloop":
        import uvloop

        loop_factory = uvloop.new_event_loop
    server, id = start_server(), SessionToken.generate().id

    async def load(store: RedisStore) -> None:
        try:
            await store.load(id)
            await asyncio.Event().wait()
        finally:
            async with asyncio.timeout(5):
                await store.load(id)

    async def begin_and_leave(ticks: int) -> None:
        tasks.append(asyncio.ensure_future(load(RedisStore(server.url))))
        for _ in range(ticks):
            await asyncio.sleep(0)

    tasks = list[asyncio.Future[None]]()
    for ticks in range(1, 8):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(begin_and_leave(ticks))
    assert [task.cancelled() for task in tasks] == [True] * 7


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, "uvloop"])
def test_a_loop_that_ends_while_a_link_is_being_opened(
    start_server: StartServer, loop_factory: Any
) -> None:
    """The loop's end breaks that off, if a task has asked for it when it was cancelled."""
    if loop_factory == "uvloop":
        import uvloop

        loop_factory = uvloop.new_event_loop
    server, id = start_server(), SessionToken.generate().id

    async def ask_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            store = RedisStore(server.url)
            stores.append((store, store.load(id)))
            for _ in range(5):
                await asyncio.sleep(0)

    async def begin_and_leave() -> asyncio.AbstractEventLoop:
        stores.append(asyncio.ensure_future(ask_at_the_end()))
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    stores = list[Any]()
    server.process.send_signal(signal.SIGSTOP)  # it accepts, and answers nothing
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.run(begin_and_leave())
    server.process.send_signal(signal.SIGCONT)
    assert asyncio.all_tasks(loop) == set()
    with Wire(server.port) as redis:
        assert is_alone(redis)


def test_threads_with_loops_of_their_own(start_server: StartServer) -> None:
    """One store in eight threads, each with loops of its own, at the same time."""
    server = start_server()
    manager = manager_on(server.url)
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    async def turn(name: str) -> None:
        token = await write(manager, name)
        values = await asyncio.gather(*(read(manager, token) for _ in range(5)))
        assert values == [name] * 5

    def work(name: str) -> None:
        try:
            barrier.wait(10)
            for number in range(25):
                asyncio.run(turn(f"{name}-{number}"))
        except BaseException as exc:  # noqa: BLE001 - told to the test
            failures.append(exc)

    threads = [threading.Thread(target=work, args=[str(number)]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive()
    assert failures == []
    with Wire(server.port) as redis:
        assert is_alone(redis)


async def test_closing_and_using_again(start_server: StartServer) -> None:
    """close() leaves no connection; the store may be used again in the same loop."""
    server = start_server()
    manager = manager_on(server.url)
    with Wire(server.port) as redis:
        token = await write(manager, 1)
        assert redis.clients() == 2  # one for records, one for indexes
        await manager.close()
        assert is_alone(redis)
        await manager.close()
        assert await read(manager, token) == 1
        await manager.close()
        assert is_alone(redis)


async def test_a_store_that_is_dropped(start_server: StartServer) -> None:
    """Without close(), while its loop goes on (test suites do so): no warning, nothing open."""
    server = start_server()
    with Wire(server.port) as redis:
        manager = manager_on(server.url)
        await write(manager, 1)
        del manager
        await asyncio.sleep(0)  # the batch's task has ended, and its callback is still to come
        gc.collect()  # warnings are errors: pytest fails the test for a ResourceWarning
        for _ in range(20):
            await asyncio.sleep(0)  # tasks that close what was left
        assert is_alone(redis)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks(redis_url: str, prefix: str) -> None:
    """With asyncio.eager_task_factory batches are shared all the same, and nothing hangs."""
    manager = manager_on(redis_url, prefix)

    async def main() -> list[Any]:
        factory: Any = vars(asyncio)["eager_task_factory"]
        asyncio.get_running_loop().set_task_factory(factory)
        tokens = await asyncio.gather(*(write(manager, number) for number in range(20)))
        with Monitor(int(redis_url.rsplit(":", 1)[1].split("/", maxsplit=1)[0])) as monitor:
            values = await asyncio.gather(*(read(manager, token) for token in tokens))
            assert len(monitor.commands()) == 1
        return values

    assert asyncio.run(main()) == list(range(20))


async def test_a_cancelled_request_leaves_the_others_alone(redis_url: str, prefix: str) -> None:
    """Of requests that share a batch some are cancelled: the others get their own sessions."""
    manager = manager_on(redis_url, prefix)
    tokens = [await write(manager, number) for number in range(20)]
    for _ in range(20):
        tasks = [asyncio.create_task(read(manager, token)) for token in tokens]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1::2] == list(range(20))[1::2]
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])

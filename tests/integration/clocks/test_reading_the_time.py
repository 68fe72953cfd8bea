"""How a store asks for the time, and what becomes of those who can't be asked."""

from __future__ import annotations

import asyncio
import socketserver
import threading
from collections.abc import Generator
from contextlib import contextmanager
from socket import create_connection, socket

import pytest

from redis_sessions import RedisStore
from redis_sessions.connect import clock as clocks
from tests.integration.clocks.wrong_time import OFF, error, set_wrong
from tests.support.redis_wire import Monitor
from tests.support.servers import Server, StartServer, as_owner

ID = "A" * 20


async def test_the_first_reads_know_the_time(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, prefix: str
) -> None:
    """However many they are, none is answered before the time is known."""
    set_wrong(monkeypatch)
    store = RedisStore(redis_url, prefix=prefix)

    async def read() -> float:
        await store.load(ID)
        return error(store)

    async def write() -> float:
        await store.mark(ID, ID, ttl=1000)
        return error(store)

    found = await asyncio.gather(*(f() for f in [read, write] * 4))
    assert found == pytest.approx([0] * 8, abs=OFF / 10)
    await store.close()


async def test_a_server_is_asked_twice_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    """Its clock may be set; but where nobody asks for a session, nobody asks for the time."""
    monkeypatch.setattr(clocks, "_EVERY", 0.0)
    server = start_server()
    store = RedisStore(server.url)
    with Monitor(server.port) as monitor:
        await store.load(ID)
        assert monitor.names() == ["TIME", "TIME", "MGET"]
        names: list[str] = []
        while names.count("TIME") < 4:
            await store.load(ID)
            names += monitor.names()
        assert set(names) == {"TIME", "MGET"}
    await store.close()


async def test_a_user_who_may_not_ask_has_the_wall_clock(
    monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    """Sessions work as before, by this machine's clock."""
    server = start_server("--user", *["lame", "on", ">p", "~*", "+@all", "-time"])
    set_wrong(monkeypatch)
    store = RedisStore(as_owner(server.url).replace("//", "//lame:p@"))
    assert await store.load(ID) is None
    assert error(store) == pytest.approx(OFF, abs=OFF / 10)
    await store.close()


class _NoTime(socketserver.BaseRequestHandler):
    """Forwards to a server, and hangs up on TIME, as proxies do on what they don't know."""

    target: int

    def handle(self) -> None:
        with create_connection(("127.0.0.1", self.target)) as onward:
            back = threading.Thread(target=self.pump, args=(onward,))
            back.start()
            while (data := self.request.recv(65536)) and b"$4\r\nTIME" not in data:
                onward.sendall(data)
            onward.shutdown(2)
            back.join()

    def pump(self, onward: socket) -> None:
        while data := onward.recv(65536):
            self.request.sendall(data)


@contextmanager
def hanging_up(server: Server) -> Generator[str]:
    """The URL of such a proxy."""
    handler = type("Handler", (_NoTime,), {"target": server.port})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            host, port = proxy.server_address[:2]
            yield server.url.replace(f"127.0.0.1:{server.port}", f"{host!s}:{port}")
        finally:
            proxy.shutdown()


async def test_a_proxy_that_hangs_up_on_the_question_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    """No command was sent along with it, and it isn't asked again at once."""
    server = start_server()
    set_wrong(monkeypatch)
    with hanging_up(server) as url:
        store = RedisStore(url)
        for _ in range(3):
            assert await store.load(ID) is None
        assert (await store.mark(ID, ID, ttl=1000)).result is False
        assert error(store) == pytest.approx(OFF, abs=OFF / 10)
        await store.close()

"""Behind uvicorn: whatever ends a session, elsewhere, ends its WebSockets and event streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from redis_sessions.stores.protocols import Store
from tests.integration.live.serving import ENDS, PATIENCE, REASON, End, Served, sign_out
from tests.support import eventually
from tests.support.apps import serve


@asynccontextmanager
async def socket(address: str, path: str, token: str) -> AsyncGenerator[ClientConnection, None]:
    headers = {"Cookie": f"sid={token}"}
    async with connect(f"ws://{address}{path}", additional_headers=headers) as connection:
        yield connection


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """How the server closes it. What it sends before is read."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await connection.recv()
    received = caught.value.rcvd
    assert received is not None
    return received.code, received.reason


async def said(connection: ClientConnection) -> str:
    async with asyncio.timeout(PATIENCE):
        return str(await connection.recv())


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
@pytest.mark.parametrize("path", ["/echo", "/flood"])
async def test_each_server(store: Store, loop: str, ws: Any, path: str) -> None:
    """A blocked receive and a loop that sends, with each of uvicorn's WebSockets."""
    served = Served(store)
    token = await served.begin()
    with serve(served.app, loop=loop, ws=ws) as address:
        async with socket(address, path, token) as connection:
            await connection.send("hello")
            await said(connection)
            await sign_out(served.elsewhere, token)
            assert await closed(connection) == (1008, REASON)
            assert eventually(lambda: served.notes == ["left"])
    assert served.manager.counts["disconnected"] == 1


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_each_end(store: Store, end: End) -> None:
    """Signed out, rotated or revoked by somebody elsewhere: the socket and the stream end."""
    served = Served(store)
    token = await served.begin()
    with serve(served.app) as address:
        async with socket(address, "/echo", token) as connection, stream(address, token) as parts:
            assert await anext(parts) == "data: 1"
            await end(served.elsewhere, token)
            assert await closed(connection) == (1008, REASON)
            async with asyncio.timeout(PATIENCE):
                assert "".join([part async for part in parts]) == ""
            assert eventually(lambda: served.notes == ["left", "left"])


@asynccontextmanager
async def stream(address: str, token: str) -> AsyncGenerator[Any, None]:
    headers = {"Cookie": f"sid={token}"}
    async with (
        httpx2.AsyncClient(base_url=f"http://{address}") as client,
        client.stream("GET", "/events", headers=headers) as response,
    ):
        yield response.aiter_lines()


async def test_another_request_ends_it(store: Store, loop: str) -> None:
    """A sign-out by the same browser, at the same server."""
    served = Served(store)
    token = await served.begin()
    with serve(served.app, loop=loop) as address:
        async with socket(address, "/echo", token) as connection:
            async with httpx2.AsyncClient(base_url=f"http://{address}") as client:
                await client.get("/do?clear=", headers={"Cookie": f"sid={token}"})
            assert await closed(connection) == (1008, REASON)


async def test_its_time_is_over(store: Store, loop: str) -> None:
    """By its own timer, idle or absolute: nobody looks at the session."""
    idle, absolute = Served(store, idle_timeout=1), Served(store, max_age=1)

    async def over(served: Served, address: str) -> tuple[int, str]:
        token = await served.begin()  # once the server is up: a second is soon over
        async with socket(address, "/echo", token) as connection:
            return await closed(connection)

    with serve(idle.app, loop=loop) as first, serve(absolute.app, loop=loop) as second:
        both = await asyncio.gather(over(idle, first), over(absolute, second))
    assert [*both] == [(1008, REASON)] * 2


@pytest.mark.parametrize("how", ["middleware", "route"])
async def test_it_is_switched_off(store: Store, how: str) -> None:
    """The socket stays open."""
    served = Served(store, end_sockets=how == "route")
    token = await served.begin()
    with serve(served.app) as address:
        path = "/unwatched" if how == "route" else "/echo"
        async with socket(address, path, token) as connection:
            await sign_out(served.elsewhere, token)
            await connection.send("hello")
            assert await said(connection) == "hello"


async def test_changes(store: Store, loop: str) -> None:
    """What is stored elsewhere arrives, and the session's end is the loop's end."""
    served = Served(store)
    token = await served.begin()
    with serve(served.app, loop=loop) as address:
        async with socket(address, "/changes", token) as connection:
            for number in range(20):
                other = await served.elsewhere.load(token)
                other["cart"] = [number]
                await served.elsewhere.commit(other)
                while await said(connection) != f'{{"cart":[{number}]}}':
                    pass
            await sign_out(served.elsewhere, token)
            assert await closed(connection) == (1008, REASON)
            assert eventually(lambda: served.notes == ["left"])


async def test_many_sockets_of_one_user(store: Store, loop: str) -> None:
    """All of them end, and nothing stays registered."""
    served = Served(store)
    tokens = [await served.begin() for _ in range(20)]
    with serve(served.app, loop=loop) as address:
        async with asyncio.TaskGroup() as group:
            ready = asyncio.Barrier(101)

            async def one(token: str) -> None:
                async with socket(address, "/echo", token) as connection:
                    await ready.wait()
                    assert await closed(connection) == (1008, REASON)

            for number in range(100):
                group.create_task(one(tokens[number % 20]))
            await ready.wait()
            assert await served.elsewhere.revoke_all("alice") == 20
        assert eventually(lambda: len(served.notes) == 100)
    assert served.manager.counts["disconnected"] == 100

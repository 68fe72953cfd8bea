"""The replica that is promoted never heard of a rotation: the replaced token doesn't open on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import httpx2
import pytest
from redis.crc import key_slot

from redis_sessions import SessionManager
from redis_sessions.connect.nodes import SLOTS
from redis_sessions.testing import read_session, topology
from tests.chaos.border import Border
from tests.chaos.faults import announce, put_behind
from tests.integration.cluster_slots import slots_of
from tests.support.apps import client_of, doing, manager_on, signed_in, token_in
from tests.support.deployments import until
from tests.support.proxy import HOST, Proxy
from tests.support.redis_wire import Wire
from tests.support.servers import SERVERS, StartServer, app_user, as_app

FORTNIGHT: Final = 14 * 24 * 3600
WAYS: Final = ["rotate=", "authenticated=", f"expire_in={2 * FORTNIGHT}"]
ALICE: Final = {"user_id": "alice"}
SOON: Final = 60.0
"""Seconds by which what a replica receives is late: for good, since its primary dies first."""


@asynccontextmanager
async def alices(
    manager: SessionManager, slots: range = range(SLOTS)
) -> AsyncGenerator[tuple[httpx2.AsyncClient, str]]:
    """A browser in which Alice is signed in, and its token; in a Cluster, in one of these slots."""
    async with client_of(doing(manager=manager)) as browser:
        token = await signed_in(browser, "alice")
        while key_slot(f"session:{token[:20]}".encode()) not in slots:
            browser.cookies.clear()
            token = await signed_in(browser, "alice")
        yield browser, token


async def replicated(port: int, token: str) -> None:
    """Wait until a replica has the session."""
    with Wire(port) as redis:

        async def there() -> bool:
            return f"session:{token[:20]}" in redis.keys("session:")

        await until(there)


async def rotated(browser: httpx2.AsyncClient, way: str) -> str:
    """The token that replaces the browser's."""
    new = token_in(await browser.get(f"/do?{way}"))
    assert new is not None
    return new


async def all_rotated(signed: Sequence[tuple[httpx2.AsyncClient, str]]) -> list[tuple[str, str]]:
    """Rotate each browser's session in a way of its own; the tokens before and after."""
    found = zip(signed, WAYS, strict=True)
    return [(old, await rotated(browser, way)) for (browser, old), way in found]


async def check(
    manager: SessionManager, stranger: SessionManager, *tokens: tuple[str, str]
) -> None:
    """Who never rotated them finds the replaced tokens until the one who did has come."""
    for old, _ in tokens:
        assert await read_session(stranger, old) == ALICE, "it wasn't lost"
    for old, new in tokens:
        assert await read_session(manager, old) == {}
        for each in (manager, stranger):
            assert [await read_session(each, token) for token in (old, new)] == [{}, ALICE]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SERVERS)
async def test_behind_a_name(start_server: StartServer, kind: str, way: str) -> None:
    """Replication is cut, the rotation answered, and the name leads to the replica."""
    primary, replica = (
        start_server("--repl-diskless-sync-delay", "0", kind=kind) for _ in range(2)
    )
    with (
        Proxy(primary.port) as replication,
        Proxy(primary.port) as name,
        Wire(replica.port) as redis,
    ):
        redis.ask("REPLICAOF", HOST, replication.port)
        manager, stranger = manager_on(as_app(name.url)), manager_on(replica.url)
        async with alices(manager) as (browser, old):
            await replicated(replica.port, old)
            replication.cut()
            new = await rotated(browser, way)
            name.cut()
            redis.ask("REPLICAOF", "NO", "ONE")
            name.target = replica.port
            name.heal()
            await check(manager, stranger, (old, new))
            assert (await browser.get("/do")).json() == ALICE
        await manager.close()
        await stranger.close()


async def test_behind_sentinels(server_binary: Path) -> None:
    """The primary is killed before its replica has received the rotations, one of each kind."""
    options = app_user(replicas=True)
    with topology.sentinel(replicas=1, server=server_binary, options=options) as running:
        async with Border(running.primary.port) as border:
            await asyncio.to_thread(put_behind, running, border)
            manager = manager_on(as_app(running.url))
            async with AsyncExitStack() as stack:
                signed = [await stack.enter_async_context(alices(manager)) for _ in WAYS]
                for _, old in signed:
                    await replicated(running.replicas[0].port, old)
                border.lag = SOON
                tokens = await all_rotated(signed)
                before = running.primary
                before.kill()
                await asyncio.to_thread(running.wait_promoted, before)
                stranger = manager_on(as_app(f"redis://{running.primary.address}"))
                await check(manager, stranger, *tokens)
            await manager.close()
            await stranger.close()


async def test_in_a_cluster(server_binary: Path) -> None:
    """The node is killed before its replica has received the rotations, one of each kind."""
    options = app_user(cluster=True)
    with topology.cluster(server=server_binary, options=options) as running:
        victim = running.primaries[0]
        (heir,) = running.replicas_of(victim)
        slots = slots_of(running, victim)
        async with Border(victim.port) as border:
            await asyncio.to_thread(announce, running, border)
            manager, stranger = [manager_on(as_app(running.url)) for _ in range(2)]
            async with AsyncExitStack() as stack:
                signed = [await stack.enter_async_context(alices(manager, slots)) for _ in WAYS]
                for _, old in signed:
                    await replicated(heir.port, old)
                border.lag = SOON
                tokens = await all_rotated(signed)
                victim.kill()
                await asyncio.to_thread(running.wait_promoted, heir)

                async def reads(by: SessionManager, expected: object) -> bool:
                    return all([await read_session(by, old) == expected for old, _ in tokens])

                await until(partial(reads, stranger, ALICE))
                await until(partial(reads, manager, {}))  # one may come before what repeats it
                for old, new in tokens:
                    for each in (manager, stranger):
                        assert await read_session(each, new) == ALICE
                        assert await read_session(each, old) == {}
            await manager.close()
            await stranger.close()

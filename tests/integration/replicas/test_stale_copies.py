"""Copies that are behind: nobody is signed out by one, and none is read for long."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from redis_sessions import RedisStore, SessionManager
from redis_sessions.connect.clock import ServerClock
from redis_sessions.connect.connector import connector_of
from redis_sessions.lifecycle.copies import load_from_replica
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.stores import replicas as replicas_module
from redis_sessions.stores.channel import Channel
from redis_sessions.stores.dialects import ONE_SERVER
from redis_sessions.stores.replicas import Replicas
from redis_sessions.stores.watching import Watching
from redis_sessions.testing import store_session, topology
from tests.integration.replicas.lagging import Lagging, follows, in_copy, see, wait_for_copies
from tests.support.apps import client_of, doing, manager_on, signed_in, token_in
from tests.support.deployments import until
from tests.support.proxy import Proxy

# -- nobody is signed out by a replica, or overwrites by one


async def test_a_miss_asks_the_primary(manager: SessionManager, lagging: Lagging) -> None:
    """A session that the replica doesn't have yet, without the hint."""
    with lagging.behind():
        token = await store_session(manager, {"n": 1})
        assert (await see(manager, token)).json() == {"n": 1}
    assert manager.counts["rejected"] == 0


async def test_a_new_token_asks_the_primary(manager: SessionManager, lagging: Lagging) -> None:
    """The replica's record doesn't open with the token of a rotation."""
    async with client_of(doing(manager=manager)) as browser:
        old = await signed_in(browser)
        await until(lambda: in_copy(manager, old))
        with lagging.behind():
            new = token_in(await browser.get("/do?rotate="))
            assert new is not None
            assert (await see(manager, new)).json() == {"user_id": "alice"}
    assert manager.counts["rejected"] == 0


async def test_another_binding_asks_the_primary(lagging: Lagging, prefix: str) -> None:
    """What isn't bound here is judged by the newest, and reported once."""
    manager = manager_on(lagging.url, prefix)
    await wait_for_copies(manager)
    session = await manager.load(None, bound="here")
    session["n"] = 1
    answer = await manager.commit(session)
    assert answer.token is not None
    token = answer.token.value
    await until(lambda: in_copy(manager, token))
    assert await load_from_replica(backend_of(manager), manager.load, [token], bound="there") == {}
    assert manager.counts["rejected"] == 1
    assert await load_from_replica(backend_of(manager), manager.load, [token], bound="here") == {
        "n": 1
    }
    await manager.close()


async def test_an_old_copy_overwrites_nothing(manager: SessionManager, lagging: Lagging) -> None:
    """A change that was made on one is merged into what the primary has."""
    token = await store_session(manager, {"a": 1})
    await until(lambda: in_copy(manager, token))
    with lagging.behind():
        newer = await manager.load(token)
        newer["b"] = 2
        await manager.commit(newer)
        old = await load_from_replica(backend_of(manager), manager.load, [token])
        assert old == {"a": 1}
        old["c"] = 3
        await manager.commit(old)
        assert await manager.load(token) == {"a": 1, "b": 2, "c": 3}
    assert manager.counts["merged"] == 1


async def test_a_replica_that_hangs(
    manager: SessionManager, lagging: Lagging, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs its own time-out once; then the primary serves everybody."""
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    lagging.replica.pause()
    try:
        for _ in range(3):
            assert (await see(manager, token)).status_code == 200
        assert isinstance(manager.store, RedisStore)
        assert manager.store.load_from_replica(token[:20]) is None
    finally:
        lagging.replica.resume()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    await until(lambda: in_copy(manager, token))


# -- the bound


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is less than a second."""
    monkeypatch.setattr(replicas_module, "MAX_LAG", 0.3)
    monkeypatch.setattr(replicas_module, "_SAMPLE_EVERY", 0.05)


async def test_a_revocation_is_not_outlived(
    soon: None, lagging: Lagging, manager: SessionManager
) -> None:
    """A replica that never hears of it is soon not asked any more."""
    token = await store_session(manager, {"user_id": "bob"})
    await until(lambda: in_copy(manager, token))

    async def signed_out() -> bool:
        return bool((await see(manager, token)).json() == {})

    with lagging.behind():
        assert await manager.revoke_all("bob") == 1
        with lagging.replica.connect() as client:
            assert client.get(manager.store.prefix + token[:20]) is not None
        over = asyncio.get_running_loop().time() + replicas_module.MAX_LAG

        async def bound_has_passed() -> bool:
            return asyncio.get_running_loop().time() > over

        await until(bound_has_passed)
        assert [await signed_out() for _ in range(20)] == [True] * 20
        assert not await in_copy(manager, token)
    await wait_for_copies(manager)  # it catches up, and is asked again
    assert await signed_out()


async def test_a_replica_of_another_primary(
    soon: None, lagging: Lagging, manager: SessionManager
) -> None:
    """One that was made a primary of its own, say by hand, isn't believed for long."""
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    role: list[Any] = lagging.replica.ask("ROLE")
    lagging.replica.ask("REPLICAOF", "NO", "ONE")
    try:

        async def left() -> bool:
            return not await in_copy(manager, token)

        await until(left)
        assert [await left() for _ in range(20)] == [True] * 20
    finally:
        lagging.replica.ask("REPLICAOF", "127.0.0.1", role[2])
        follows(lagging.replica)


async def test_a_replica_that_started_anew(
    lagging: Lagging, manager: SessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of the one before doesn't count for the process that follows it."""
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    monkeypatch.setattr(replicas_module, "_SAMPLE_EVERY", 1e9)
    assert await in_copy(manager, token)  # still in time
    lagging.replica.kill()
    lagging.replica.start()
    try:
        assert [await in_copy(manager, token) for _ in range(20)] == [False] * 20
        assert (await see(manager, token)).json() == {"n": 1}
    finally:
        follows(lagging.replica)  # its configuration has connected it to the primary itself
        lagging.through_the_proxy()


async def test_several_replicas_behind_one_address(
    server_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer's: what is learned of one of them doesn't count for another."""
    monkeypatch.setattr(replicas_module, "_SAMPLE_EVERY", 0.0)  # with each read, beside it
    with (
        topology.replicas(2, server=server_binary) as servers,
        Proxy(servers.primary.port) as stream,
        Proxy(servers.nodes[1].port) as balancer,
    ):
        primary, fresh, stale = servers.nodes
        primary.ask("SET", "k", "old")
        stale.ask("REPLICAOF", "127.0.0.1", stream.port)
        follows(stale)
        stream.freeze()
        primary.ask("SET", "k", "new")
        connector = connector_of(primary.url, timeout=1)
        channel = Channel(connector, 1, [], ServerClock(), Watching(RedisStore(primary.url).load, 0))
        addresses = [("127.0.0.1", balancer.port)]
        replicas = Replicas(connector, channel.ask, 1, ONE_SERVER, addresses)

        async def read() -> bytes | None:
            copy = replicas.load("k")
            value = None if copy is None else await copy
            await vars(replicas)["_sampling"]
            return value

        async def is_new() -> bool:
            return await read() == b"new"

        await until(is_new)
        for node, other in ((stale, fresh), (fresh, stale), (stale, fresh)):
            balancer.target = node.port  # of the next connection
            other.ask("CLIENT", "KILL", "TYPE", "normal")
            for _ in range(5):
                assert await read() != b"old"
        await replicas.close()
        await channel.close()

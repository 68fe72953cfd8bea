"""Leases, over every store: who leads, with which token, and when a run begins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import time

import pytest

from redis_sessions import MemoryStore, RedisStore, ReplicationError, StoreError
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.leases import Leases, leases_of
from redis_sessions.stores.redis import servers_of
from tests.support.deployments import Deployment, until
from tests.support.servers import Server, as_owner

LONG, SHORT = 60, 0.01


async def test_in_memory() -> None:
    """As the script does in Redis."""
    await conform(leases_of(MemoryStore()))


@pytest.fixture
async def store(server: Server, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, prefix=prefix)
    yield store
    await store.close()


async def test_servers(store: RedisStore, prefix: str) -> None:
    """Each kind of server runs the script, on a hash that is there for 400 days."""
    await conform(leases_of(store))
    await lasts(store)
    await damaged(store)
    await ahead(store)
    await store.commit("leader:taken", None, b"\1" * 40, 60_000)
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await leases_of(store).acquire("taken", "a", LONG, "here", 0)


async def test_too_few_replicas(redis_url: str, prefix: str) -> None:
    """A lease that no replica has isn't held, nor renewed, nor does a run begin."""
    url = as_owner(redis_url)
    store = RedisStore(url, prefix=prefix, wait_replicas=1, wait_timeout=0.01)
    leases = leases_of(store)
    for write in (
        leases.acquire("nightly", "a", LONG, "here", 0),
        leases.renew("nightly", "a", LONG),
        leases.begin("nightly", "a", "run", LONG),
    ):
        with pytest.raises(ReplicationError, match="0 of 1 replicas confirmed it"):
            await write
    await leases.release("nightly", "a")
    await store.close()


async def test_deployments(deployment: Deployment, prefix: str) -> None:
    """Over Sentinel, Cluster, TLS, an ACL's user, and with replicas that are waited for."""
    store = RedisStore(deployment.url, prefix=prefix, **deployment.options)
    try:
        await conform(leases_of(store))
    finally:
        await store.close()


async def conform(leases: Leases) -> None:
    """Everything that is promised of leases."""
    name = "nightly, at {3}"  # no slot is named by it
    assert await leases.look(name) is None

    # Only one leads, and its repeated wish is the same.
    first = await leases.acquire(name, "a", LONG, "here:1", 0)
    again = await leases.acquire(name, "a", LONG, "here:1", 0)
    other = await leases.acquire(name, "b", LONG, "there:2", 0)
    assert (first.mine, again.mine, other.mine) == (True, True, False)
    assert first.token == again.token == other.token
    assert LONG - 5 < other.left <= LONG

    found = await leases.look(name)
    assert found is not None
    assert (found.name, found.about, found.token, found.ran) == (name, "here:1", first.token, None)
    assert 0 <= found.since < 5
    assert LONG - 5 < found.left <= LONG

    # A run begins once, whoever asks again.
    assert await leases.begin(name, "b", "run 1", LONG) is None
    assert await leases.begin(name, "a", "run 1", LONG) == 0
    assert await leases.begin(name, "a", "run 1", LONG) == 0
    due = await leases.begin(name, "a", "run 2", LONG)
    assert due is not None
    assert LONG - 5 < due <= LONG

    # Nobody else renews or releases it.
    assert await leases.renew(name, "a", 2 * LONG)
    assert not await leases.renew(name, "b", LONG)
    await leases.release(name, "b")
    found = await leases.look(name)
    assert found is not None
    assert found.left > LONG
    assert found.ran is not None

    # Released, it is the next one's at once, with a greater token and the same schedule.
    await leases.release(name, "a")
    assert not await leases.renew(name, "a", LONG)
    second = await leases.acquire(name, "b", SHORT, "there:2", 0)
    assert second.mine
    assert second.token > first.token
    await until(lambda: lapsed(leases, name))
    assert not await leases.renew(name, "b", LONG)
    assert await leases.begin(name, "b", "run 3", SHORT) is None
    third = await leases.acquire(name, "c", LONG, "elsewhere:3", second.token + 10**9)
    assert third.token > second.token + 10**9  # one that somebody has seen
    due = await leases.begin(name, "c", "run 2", LONG)
    assert due is not None
    assert due > 0
    await until(lambda: begins(leases, name))
    await leases.release(name, "c")
    fourth = await leases.acquire(name, "d", LONG, "elsewhere:4", 0)
    assert fourth.token > third.token  # though that one was ahead of the time, and nobody says so

    assert await leases.names() == []
    await leases.names(name)
    await leases.names(name)
    assert await leases.names() == [name]


async def lapsed(leases: Leases, name: str) -> bool:
    found = await leases.look(name)
    return found is not None and found.left == 0


async def begins(leases: Leases, name: str) -> bool:
    return await leases.begin(name, "c", "run 4", SHORT) == 0


async def damaged(store: RedisStore) -> None:
    """A hash with anything in it is led from the server's time on."""
    leases, key = leases_of(store), f"{store.prefix}leader:damaged"
    fields = ("token", "nan", "until", "inf", "lease", "9" * 30, "start", "-1", "holder", "\xff")
    command = ("HSET", key, *fields, "since", "0x10", "run", "", "about", b"\xff")
    await servers_of(store).index_commands.submit(IndexCommand(key, command), 64)
    found = await leases.acquire("damaged", "a", LONG, "here", 0)
    assert found.mine
    assert 2**50 < found.token < 2**53
    assert await leases.begin("damaged", "a", "run", LONG) == 0


async def ahead(store: RedisStore) -> None:
    """After the clock was set back, nobody leads for longer than a lease, nor is a run late."""
    leases, key = leases_of(store), f"{store.prefix}leader:ahead"
    day = int((time() + 86_400) * 1e6)
    times = ("token", day, "since", day, "until", day, "lease", 100_000, "start", day)
    command = ("HSET", key, "holder", "a", *times, "run", "run 1", "about", "here")
    await servers_of(store).index_commands.submit(IndexCommand(key, command), 64)
    found = await leases.acquire("ahead", "b", LONG, "there", 0)
    assert not found.mine
    assert found.left <= 0.1
    await until(lambda: lapsed(leases, "ahead"))
    found = await leases.acquire("ahead", "b", LONG, "there", 0)
    assert found.mine
    assert found.token > day
    due = await leases.begin("ahead", "b", "run 2", LONG)
    assert due is not None
    assert 0 < due <= LONG


async def lasts(store: RedisStore) -> None:
    for key in ("leader:nightly, at {3}", "leaders"):
        command = "PTTL", store.prefix + key
        left = await servers_of(store).index_commands.submit(IndexCommand(command[1], command), 64)
        assert 399 < left / 86_400_000 <= 400

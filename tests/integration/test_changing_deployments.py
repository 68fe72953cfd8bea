"""Sentinel and Cluster while they change: moved slots, failovers, dead and hanging nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, TryAgainError

from redis_sessions import (
    ConfigurationError,
    RedisStore,
    SessionConflictError,
    StoreUnavailableError,
)
from redis_sessions.session.record import HEADER_SIZE, tombstone
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import Commit
from redis_sessions.stores.queues import ItemQueue
from redis_sessions.testing import topology
from tests.integration.busy_browsers import Visitor, all_served, statuses, visitors, wrong
from tests.integration.cluster_slots import MINUTE, id_in, loaded, record, slots_of
from tests.support.apps import client_of, doing, manager_on, signed_in
from tests.support.deployments import until
from tests.support.servers import Server, app_user, as_app, as_owner

USERS = [f"user-{number}" for number in range(12)]


async def left(store: RedisStore, tokens: list[str]) -> list[dict[Any, Any]]:
    """What these tokens still open."""
    manager = manager_on(store)
    return [dict(await manager.load(token)) for token in tokens]


# -- Sentinel


async def test_a_failover_behind_sentinels(server_binary: Path) -> None:
    """The primary dies under load: 503 until the next one is there, and everybody is themselves."""
    with topology.sentinel(server=server_binary, options=app_user(replicas=True)) as running:
        store = RedisStore(
            as_app(running.url), wait_replicas=2, wait_timeout=0.2, on_too_few="warn", timeout=1.0
        )
        app = doing(manager=manager_on(store))
        async with client_of(app) as browser:
            gone = await signed_in(browser, "gone")
            assert (await browser.get("/do?drop=user_id")).status_code == 200
        async with visitors(app, USERS) as everybody:
            before = running.primary
            before.kill()
            await asyncio.to_thread(running.wait_promoted, before)
            await all_served(everybody)
        assert statuses(everybody) == {200, 503}
        assert wrong(everybody) == []
        assert await left(store, [gone]) == [{}]
        await store.close()


async def test_a_primary_that_hangs(server_binary: Path) -> None:
    """When it runs on, nobody is served by it, though it doesn't know that it was deposed."""
    with topology.sentinel(server=server_binary, options=app_user(replicas=True)) as running:
        idle = RedisStore(as_app(running.url), timeout=0.5)
        id, value = SessionToken.generate().id, record()
        assert (await idle.commit(id, None, value, MINUTE)).result is Commit.STORED
        before = running.primary
        before.pause()
        await asyncio.to_thread(running.wait_promoted, before)
        ended = tombstone(1)
        with running.primary.connect() as client:
            client.set(idle.prefix + id, ended)
        for watcher in running.sentinels:  # nor does anybody tell it
            watcher.ask("SENTINEL", "DEBUG", "INFO-PERIOD", "100000000")
        before.resume()

        async def learned() -> bool:
            return await idle.load(id) == ended

        await until(learned)  # its connection led to the former primary
        assert await learned()
        assert before.role() == "primary"
        await idle.close()


async def test_sentinels_that_hang(server_binary: Path) -> None:
    """As long as one of them answers, the primary is found."""
    with topology.sentinel(server=server_binary, options=app_user(replicas=True)) as running:
        for watcher in running.sentinels[:2]:
            watcher.pause()
        store = RedisStore(as_app(running.url))
        await store.connect()
        await store.close()
        for watcher in running.sentinels[2:]:
            watcher.pause()
        nobody = RedisStore(as_app(running.url), timeout=0.5)
        with pytest.raises(StoreUnavailableError):
            await nobody.load("x")
        await nobody.close()


async def test_a_name_that_the_sentinels_dont_know(
    sentinel_topology: topology.SentinelTopology,
) -> None:
    """The error names it, and nobody's password."""
    url = sentinel_topology.url.replace("/mymaster", "/nobody").replace("//", "//u:sesame@")
    store = RedisStore(url)
    with pytest.raises(StoreUnavailableError, match="nobody") as caught:
        await store.connect()
    assert "sesame" not in str(caught.value)
    await store.close()


async def test_sentinels_that_refuse(server_binary: Path) -> None:
    """A wrong password of theirs is a refusal, unless only some of them say so; nobody shows it."""
    with topology.sentinel(replicas=0, sentinels=2, server=server_binary) as running:
        url = f"{running.url}?sentinel_password=sesame"
        first, second = running.sentinels
        first.ask("ACL", "SETUSER", "default", "resetpass", ">another")
        store = RedisStore(url.replace(second.address, "127.0.0.1:1"))
        with pytest.raises(StoreUnavailableError, match=r"password.*127\.0\.0\.1:1") as caught:
            await store.connect()
        assert caught.value.reason == "connection"
        await store.close()

        second.ask("ACL", "SETUSER", "default", "resetpass", ">another")
        store = RedisStore(url)
        with pytest.raises(ConfigurationError, match="refused: no primary is known") as told:
            await store.connect()
        assert "sesame" not in str(told.value)
        await store.close()


# -- Cluster


@pytest.fixture(scope="module")
def running(server_binary: Path) -> Iterator[topology.ClusterTopology]:
    with topology.cluster(
        server=server_binary,
        options={**app_user(cluster=True, replicas=True), "cluster-require-full-coverage": "no"},
    ) as c:
        yield c


@pytest.fixture
async def store(running: topology.ClusterTopology, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(as_app(running.url), prefix=prefix, timeout=1.0)
    await store.connect()
    yield store
    await store.close()


async def test_moved_slots(running: topology.ClusterTopology, store: RedisStore) -> None:
    """What an old map says is put right by the node that is asked, without an error."""
    source, target = running.primaries[:2]
    slots = slots_of(running, source)[:3]
    ids = [id_in(slots, store.prefix) for _ in range(20)]
    values = [record() for _ in ids]
    for id, value in zip(ids, values, strict=True):
        assert (await store.commit(id, None, value, MINUTE)).result is Commit.STORED
    await asyncio.to_thread(running.move_slots, slots, source, target)
    try:
        assert await loaded(store, *ids) == values
        assert (await store.end(ids[0], tombstone(0), MINUTE)).result
        async with store.lock(ids[0], wait=0.1, hold=1):
            pass
    finally:
        await asyncio.to_thread(running.move_slots, slots, target, source)
    assert await store.load(ids[1]) == values[1]


async def test_moving_under_load(running: topology.ClusterTopology, prefix: str) -> None:
    """The slots of sessions move while these are served: none of them hears of it."""
    store = RedisStore(as_app(running.url), prefix=prefix, timeout=2.5)  # a busy machine's nodes
    async with visitors(doing(manager=manager_on(store)), USERS) as everybody:
        source = owner(running, store, everybody[0])
        target = next(node for node in running.primaries if node is not source)
        theirs = {slot_of(store, visitor) for visitor in everybody}
        moved = sorted(theirs.intersection(slots_of(running, source)))
        await asyncio.to_thread(running.move_slots, moved, source, target)
        await all_served(everybody)
        await asyncio.to_thread(running.move_slots, moved, target, source)
        await all_served(everybody)
    assert (statuses(everybody), wrong(everybody)) == ({200}, [])
    await store.close()


async def test_a_slot_on_its_way(running: topology.ClusterTopology, store: RedisStore) -> None:
    """ASK: a key that isn't at the source is asked for at the target, on one connection."""
    source, target = running.primaries[:2]
    slot = slots_of(running, source)[0]
    here, there = (
        id_in(range(slot, slot + 1), store.prefix),
        id_in(range(slot, slot + 1), store.prefix),
    )
    first, second = record(), record()
    assert (await store.commit(here, None, first, MINUTE)).result is Commit.STORED
    ids = {node: node.ask("CLUSTER", "MYID") for node in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    try:
        assert (await store.commit(there, None, second, MINUTE)).result is Commit.STORED
        with target.connect() as client:
            client.execute_command("ASKING")
            assert client.get(store.prefix + there) == second
        assert await loaded(store, here, there) == [first, second]
        newer = record()
        changed = store.commit(there, second[:HEADER_SIZE], newer, MINUTE)
        assert (await changed).result is Commit.STORED
        async with store.lock(there, wait=0.1, hold=5):
            with pytest.raises(SessionConflictError):
                async with store.lock(there, wait=0.1, hold=5):
                    pass
    finally:
        with source.connect() as giver:
            giver.execute_command(
                *("MIGRATE", "127.0.0.1", target.port, store.prefix + here, 0, 4000)
            )
        await asyncio.to_thread(running.move_slots, [slot], source, target)
    assert await loaded(store, here, there) == [first, newer]
    await asyncio.to_thread(running.move_slots, [slot], target, source)


@pytest.mark.parametrize("trouble", [TryAgainError("later"), ClusterDownError("it is down")])
async def test_try_again(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """What passes is waited for; what doesn't is a 503 at the deadline."""
    answer, refused = ItemQueue[Any, Any].answer, 0

    def refuse(queue: Any, items: Any, futures: Any, replies: Any) -> bool:
        nonlocal refused
        if refused and isinstance(items[0], str):
            refused -= 1
            replies = [trouble] * len(replies)
        return answer(queue, items, futures, replies)

    monkeypatch.setattr(ItemQueue, "answer", refuse)
    refused = 3
    assert await store.load(SessionToken.generate().id) is None
    assert refused == 0
    refused = 1_000_000
    with pytest.raises(StoreUnavailableError) as caught:
        await store.load(SessionToken.generate().id)
    assert caught.value.reason == "server"


async def test_a_planned_failover(running: topology.ClusterTopology, store: RedisStore) -> None:
    """A replica takes over while requests are served; the commit script is known to it."""
    primary = running.primaries[0]
    replica = running.replicas_of(primary)[0]
    async with visitors(doing(manager=manager_on(store)), USERS) as everybody:
        await asyncio.to_thread(running.failover, replica)
        await all_served(everybody)
        await asyncio.to_thread(running.failover, primary)
        await all_served(everybody)
    assert statuses(everybody) <= {200, 503}
    assert wrong(everybody) == []


def key_of(store: RedisStore, visitor: Visitor) -> str:
    token = SessionToken.parse(visitor.token)
    assert token is not None
    return store.prefix + token.id


def slot_of(store: RedisStore, visitor: Visitor) -> int:
    return int(key_slot(key_of(store, visitor).encode()))


def owner(running: topology.ClusterTopology, store: RedisStore, visitor: Visitor) -> topology.Node:
    return running.slot_owner(key_of(store, visitor))


async def test_a_node_that_hangs(running: topology.ClusterTopology, prefix: str) -> None:
    """It costs its own sessions alone, until its replica has taken over."""
    # A busy machine's other nodes answer within the store's timeout, after which this one's
    # sessions get 503. Its replica takes over later: a vote begins half a second after a timeout.
    store = RedisStore(as_app(running.url), prefix=prefix, timeout=2.0)
    set_node_timeout(running, 2000)
    victim = running.primaries[0]
    replica = running.replicas_of(victim)[0]
    async with visitors(doing(manager=manager_on(store)), [*USERS, *"abcdefghij"]) as everybody:
        hit = [v for v in everybody if owner(running, store, v) is victim]
        others = [v for v in everybody if v not in hit]
        assert hit
        assert others
        victim.pause()
        try:
            await all_served(others)
            assert statuses(others) == {200}
            await asyncio.to_thread(running.wait_promoted, replica)
            await all_served(everybody)
        finally:
            victim.resume()
            set_node_timeout(running, 1500)
            await asyncio.to_thread(running.wait_ready)
        await all_served(everybody)
    assert statuses(others) == {200}
    assert statuses(hit) == {200, 503}
    assert wrong(everybody) == []
    await asyncio.to_thread(running.failover, victim)
    await store.close()


def set_node_timeout(running: topology.ClusterTopology, milliseconds: int) -> None:
    """After how long the others think that a node is dead which doesn't answer."""
    for node in running.nodes:
        node.ask("CONFIG", "SET", "cluster-node-timeout", milliseconds)


async def test_a_node_that_dies(running: topology.ClusterTopology, store: RedisStore) -> None:
    """Its sessions are served again by its replica, and nobody who signed out is back."""
    manager = manager_on(RedisStore(as_app(running.url), prefix=store.prefix, wait_replicas=1))
    app = doing(manager=manager)
    gone: list[str] = []
    for number in range(6):
        async with client_of(app) as browser:
            gone.append(await signed_in(browser, f"gone-{number}"))
            assert (await browser.get("/do?drop=user_id")).status_code == 200
    victim = running.primaries[0]
    replica = running.replicas_of(victim)[0]
    async with visitors(doing(manager=manager_on(store)), USERS) as everybody:
        victim.kill()
        await asyncio.to_thread(running.wait_promoted, replica)
        await all_served(everybody)
        victim.start()
        await asyncio.to_thread(running.wait_ready)
        await all_served(everybody)
    assert statuses(everybody) <= {200, 503}
    assert wrong(everybody) == []
    assert await left(store, gone) == [{}] * len(gone)
    await asyncio.to_thread(running.failover, victim)
    await manager.close()


async def test_a_seed_is_enough(running: topology.ClusterTopology, prefix: str) -> None:
    """One node of the URL that answers tells of all others; a replica will do."""
    replica = running.replicas_of(running.primaries[0])[0]
    store = RedisStore(as_app(f"redis+cluster://127.0.0.1:1,{replica.address}"), prefix=prefix)
    await store.connect()
    ids = [SessionToken.generate().id for _ in range(30)]
    stored = await asyncio.gather(*(store.commit(id, None, record(), MINUTE) for id in ids))
    assert {each.result for each in stored} == {Commit.STORED}
    await store.close()


async def test_no_node_answers() -> None:
    """The reason is the connection's, as for one server."""
    store = RedisStore("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError) as caught:
            await store.load("x")
        assert caught.value.reason == "connection"
    await store.close()


# -- one for the other


async def test_a_server_that_is_no_cluster(server: Server) -> None:
    """The application doesn't start, and the message is the server's."""
    store = RedisStore(as_owner(server.url).replace("redis://", "redis+cluster://"))
    with pytest.raises(ConfigurationError, match="cluster support disabled"):
        await store.connect()
    await store.close()


async def test_a_cluster_that_is_used_as_a_server(running: topology.ClusterTopology) -> None:
    """The message says what to write."""
    store = RedisStore(running.nodes[0].url)
    with pytest.raises(ConfigurationError, match=r"write redis\+cluster://"):
        for _ in range(20):  # a third of all keys are its own
            await store.connect()
    await store.close()

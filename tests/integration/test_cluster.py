"""A Cluster node by node: rights, an outage of the whole, slots on their way, and the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from redis_sessions import ConfigurationError, RedisStore, StoreUnavailableError
from redis_sessions.session.record import HEADER_SIZE, tombstone
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import Commit
from redis_sessions.stores.queues import ItemQueue
from redis_sessions.testing import topology
from redis_sessions.testing.topology import Node
from tests.integration.check_command import levels
from tests.integration.cluster_slots import MINUTE, id_in, loaded, record, slots_of
from tests.support.deployments import until
from tests.support.servers import app_user, as_app, as_user

Shards = topology.ClusterTopology


@pytest.fixture(scope="module")
def running(server_binary: Path) -> Iterator[Shards]:
    with topology.cluster(server=server_binary, options=app_user(cluster=True, replicas=True)) as c:
        yield c


@pytest.fixture
async def store(running: Shards, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(as_app(running.url), prefix=prefix, timeout=1.0)
    await store.connect()
    yield store
    await store.close()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.name == "redis_sessions"]


# -- rights


@pytest.fixture
def users(running: Shards) -> Iterator[Shards]:
    """`other` on each node, who may do everything."""
    for node in running.nodes:
        node.ask("ACL", "SETUSER", "other", "on", ">sesame", "~*", "+@all")
    yield running
    for node in running.nodes:
        node.ask("ACL", "DELUSER", "other")


@pytest.mark.parametrize("missing", [[0], [1], [0, 2]])
@pytest.mark.parametrize("right", ["-evalsha", "-get", "resetkeys"])
async def test_a_right_that_a_node_lacks(
    users: Shards, prefix: str, missing: list[int], right: str
) -> None:
    """Every primary is tried, and those that lack it are named."""
    primaries = users.nodes[:3]
    for number in missing:
        primaries[number].ask("ACL", "SETUSER", "other", right)
    url = as_user(users.url, "other:sesame")
    store = RedisStore(url, prefix=prefix)
    with pytest.raises(ConfigurationError, match="give the user the rights") as caught:
        await store.connect()
    named = [number for number in range(3) if primaries[number].address in str(caught.value)]
    assert named == missing
    assert "sesame" not in str(caught.value)
    await store.close()


async def test_a_password_that_a_node_lacks(users: Shards, prefix: str) -> None:
    """Whoever isn't let in by one of them is told which."""
    odd = users.nodes[2]
    odd.ask("ACL", "SETUSER", "other", "resetpass", ">another")
    store = RedisStore(as_user(users.url, "other:sesame"), prefix=prefix)
    with pytest.raises(ConfigurationError, match=f"{odd.address}.* refused"):
        await store.connect()
    await store.close()


async def test_a_key_that_is_no_record(running: Shards, store: RedisStore) -> None:
    """As on one server: something else under a record's key reads as no session."""
    id = SessionToken.generate().id
    key = store.prefix + id
    running.slot_owner(key).ask("HSET", key, "a", "b")
    assert await store.load(id) is None
    running.slot_owner(key).ask("DEL", key)


async def test_a_prefix_with_a_hash_tag(running: Shards, prefix: str) -> None:
    """All is on one node then, and that is the one that is tried."""
    tagged = f"session:{{{prefix}}}"
    store = RedisStore(as_app(running.url), prefix=tagged)
    await store.connect()
    await store.close()
    found = await asyncio.to_thread(levels, running.url, "--prefix", tagged)
    assert found["rights"]["level"] == "ok"


# -- the whole Cluster is down


async def test_a_cluster_that_is_down(
    server_binary: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are refused at once, for as long as the nodes say so, and no longer."""
    timeout = 2.0
    user = app_user(cluster=True)
    kept: dict[str, Any] = {"append_only": True, "options": {**user, "appendfsync": "always"}}
    with topology.cluster(replicas=0, server=server_binary, **kept) as running:
        store = RedisStore(as_app(running.url), prefix=prefix, timeout=timeout)
        await store.connect()
        victim, others = running.nodes[0], running.nodes[1:]
        slots = [slots_of(running, node) for node in others]
        ids = [id_in(slots[number % 2], prefix) for number in range(60)]
        lost = id_in(slots_of(running, victim), prefix)
        values = {id: record() for id in [*ids, lost]}
        for id, value in values.items():
            assert (await store.commit(id, None, value, MINUTE)).result is Commit.STORED

        victim.kill()
        await until(lambda: down(others))
        with caplog.at_level(logging.WARNING):
            await refusals(store, ids)  # the first may still be waited for
            began = asyncio.get_running_loop().time()
            for id in ids:  # one after the other: each would have taken the timeout
                for trouble in await refusals(store, [id]):
                    assert trouble.reason == "server"
                    assert "The cluster is down" in str(trouble)
            assert asyncio.get_running_loop().time() - began < 5 * timeout
            with pytest.raises(StoreUnavailableError) as caught:
                await store.load(lost)
            assert caught.value.reason == "connection"

            victim.start()
            await asyncio.to_thread(running.wait_ready)
            assert await loaded(store, *values) == list(values.values())
        await store.close()
    messages = told(caplog)
    for node in others:
        mine = [text for text in messages if node.address in text]
        assert len(mine) == 2
        assert "The cluster is down" in mine[0]
        assert mine[1] == f"sessions: {node.address}/0 serves again"
    assert not [text for text in messages if "requests that need one" in text]


async def test_a_cluster_that_hangs(server_binary: Path, prefix: str) -> None:
    """Once it is known, one request waits for the map, one for each node, and the rest doesn't."""
    timeout = 2.0
    with topology.cluster(replicas=0, server=server_binary) as running:
        store = RedisStore(running.url, prefix=prefix, timeout=timeout)
        ids = [SessionToken.generate().id for _ in range(60)]
        assert await loaded(store, *ids) == [None] * 60
        for node in running.nodes:
            node.pause()
        for _ in range(2):  # it shows in the first; the second finds that there is no map either
            await refusals(store, ids)
        asked = [asyncio.create_task(refusals(store, [id])) for id in ids]
        _, waiting = await asyncio.wait(asked, timeout=timeout / 4)
        assert len(waiting) <= len(running.nodes) + 1
        await asyncio.wait(asked)
        for node in running.nodes:
            node.resume()
        await until(lambda: served(store, ids))
        await store.close()


async def served(store: RedisStore, ids: list[str]) -> bool:
    found = await asyncio.gather(*map(store.load, ids), return_exceptions=True)
    return found == [None] * len(ids)


async def down(nodes: tuple[Node, ...]) -> bool:
    return all("cluster_state:fail" in node.ask("CLUSTER", "INFO") for node in nodes)


async def refusals(store: RedisStore, ids: list[str]) -> list[StoreUnavailableError]:
    """What each of these loads was refused with, asked for at once."""
    found = await asyncio.gather(*map(store.load, ids), return_exceptions=True)
    troubles = [each for each in found if isinstance(each, StoreUnavailableError)]
    assert len(troubles) == len(ids)
    return troubles


# -- slots on their way


async def test_a_slot_that_moves_while_all_are_looked_for(running: Shards, prefix: str) -> None:
    """It goes to a node that has had its turn, which has another turn then; nothing comes twice."""
    store = RedisStore(running.url, prefix=prefix)
    by_node = {node: slots_of(running, node) for node in running.nodes[:3]}
    first = min(by_node, key=lambda node: by_node[node][0])
    last = max(by_node, key=lambda node: by_node[node][0])
    slot = by_node[last][0]
    moving = [id_in(range(slot, slot + 1), prefix) for _ in range(3)]
    ids = [*moving, *(id_in(slots, prefix) for slots in by_node.values() for _ in range(20))]
    for id in ids:
        await store.commit(id, None, record(), MINUTE)
    found, moved = list[str](), False
    try:
        async for page in store.scan():
            found += [each.id for each in page]
            if not moved:
                moved = True
                await asyncio.to_thread(running.move_slots, [slot], last, first)
    finally:
        await asyncio.to_thread(running.move_slots, [slot], first, last)
        await store.close()
    assert sorted(found) == sorted(ids)


async def test_two_sessions_in_a_split_slot(running: Shards, store: RedisStore) -> None:
    """What a node answers to several keys with TRYAGAIN, it is never asked: each has a command."""
    source, target = running.nodes[:2]
    slot = slots_of(running, source)[0]
    here, there = (id_in(range(slot, slot + 1), store.prefix) for _ in range(2))
    keys = [store.prefix + here, store.prefix + there]
    first, second = record(), record()
    assert (await store.commit(here, None, first, MINUTE)).result is Commit.STORED
    names = {node: node.ask("CLUSTER", "MYID") for node in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    try:
        assert (await store.commit(there, None, second, MINUTE)).result is Commit.STORED
        with target.connect() as client:
            client.execute_command("ASKING")
            with pytest.raises(ResponseError, match=r"TRYAGAIN|Multiple keys"):
                client.execute_command("MGET", *keys)
        before = [try_agains(node) for node in (source, target)]

        assert await loaded(store, here, there, here, there) == [first, second] * 2
        newer = record(), record()
        stored = await asyncio.gather(
            store.commit(here, first[:HEADER_SIZE], newer[0], MINUTE),
            store.commit(there, second[:HEADER_SIZE], newer[1], MINUTE),
        )
        assert {each.result for each in stored} == {Commit.STORED}
        assert await loaded(store, here, there) == list(newer)
        ended = await asyncio.gather(*(store.end(i, tombstone(0), MINUTE) for i in (here, there)))
        assert [each.result for each in ended] == [True, True]
        index = index_in(slot, store.prefix)
        for id in (here, there):
            await store.enter(index, id, age=0, own=-1, ttl=MINUTE, descriptor=b"")
        assert {entry.id for entry in (await store.entries(index))[1]} == {here, there}
        revoked, _ = await store.revoke(index, keep=None, memory=MINUTE)
        await store.remove(index, [here], until=revoked)
        assert {entry.id for entry in (await store.entries(index))[1]} == {there}

        assert [try_agains(node) for node in (source, target)] == before
        assert before[1] > 0
    finally:
        await asyncio.to_thread(running.move_slots, [slot], source, target)
        await asyncio.to_thread(running.move_slots, [slot], target, source)


def try_agains(node: Node) -> int:
    """How often this node has answered so."""
    found: Any = node.ask("INFO", "errorstats")
    return int(found.get("errorstat_TRYAGAIN", {"count": 0})["count"])


def index_in(slot: int, prefix: str) -> str:
    while True:
        key = SessionToken.generate().id
        if key_slot(f"{prefix}of:{key}".encode()) == slot:
            return key


async def test_a_late_redirect(
    running: Shards, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that answers ASK after the deadline isn't followed: a write could come too late."""
    source, target = running.nodes[:2]
    slot = slots_of(running, source)[0]
    answer = ItemQueue[Any, Any].answer
    asked: list[Any] = []

    def slowly(queue: Any, items: Any, futures: Any, replies: Any) -> bool:
        asked.extend(items)
        loop = asyncio.get_running_loop()
        loop.call_later(store.timeout, answer, queue, items, futures, replies)
        return True

    names = {node: node.ask("CLUSTER", "MYID") for node in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    try:
        id = id_in(range(slot, slot + 1), store.prefix)
        with monkeypatch.context() as patched:
            patched.setattr(ItemQueue, "answer", slowly)
            with pytest.raises(StoreUnavailableError):
                await store.commit(id, None, record(), MINUTE)
        assert [write.key for write in asked] == [store.prefix + id]
        assert await store.load(id) is None
    finally:
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")


# -- the log


async def test_a_node_that_is_replaced(
    running: Shards,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was under way at it is answered by the next one, and nobody is told of trouble."""
    monkeypatch.setattr("redis_sessions.connect.slots._REFRESH_EVERY", 0)
    seed, before = running.nodes[:2]
    after = running.replicas_of(before)[0]
    store = RedisStore(as_app(f"redis+cluster://{seed.address}"), prefix=prefix, timeout=2.5)
    id, value = id_in(slots_of(running, before), prefix), record()
    assert (await store.commit(id, None, value, MINUTE)).result is Commit.STORED
    with before.connect() as client:
        assert client.wait(1, 5_000) == 1
    before.ask("CLIENT", "PAUSE", 4_000, "ALL")
    with caplog.at_level(logging.WARNING):
        under_way = asyncio.ensure_future(store.load(id))
        await store.load(id_in(slots_of(running, seed), prefix))  # by then the other one is sent
        after.ask("CLUSTER", "FAILOVER", "TAKEOVER")

        async def taken_over() -> bool:
            return slots_of_port(seed, after.port)

        await until(taken_over)
        await store.connect()  # fetches the map
        assert not told(caplog)
        assert await under_way == value
    assert not told(caplog)
    await store.close()
    await asyncio.to_thread(running.wait_promoted, after)
    await asyncio.to_thread(running.failover, before)


def slots_of_port(asked: Node, port: int) -> bool:
    ranges: list[Any] = asked.ask("CLUSTER", "SLOTS")
    return any(each[2][1] == port for each in ranges)


async def test_a_node_that_dies_is_told(
    running: Shards, store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """That its slots are out of reach, then that another node serves them; no more."""
    victim = running.nodes[0]
    replica = running.replicas_of(victim)[0]
    id = id_in(slots_of(running, victim), store.prefix)
    with caplog.at_level(logging.WARNING):
        victim.kill()
        try:
            with pytest.raises(StoreUnavailableError):
                await store.load(id)
            await asyncio.to_thread(running.wait_promoted, replica)

            async def served() -> bool:
                try:
                    return await store.load(id) is None
                except StoreUnavailableError:
                    return False

            await until(served)
        finally:
            victim.start()
            await asyncio.to_thread(running.wait_ready)
    mine = [text for text in told(caplog) if victim.address in text]
    assert mine[0].endswith("requests for its slots get 503 as long as no node serves them")
    assert mine[1:] == [f"sessions: other nodes serve the slots of {victim.address}/0"]
    await asyncio.to_thread(running.failover, victim)

"""A Cluster whose slots move, whose nodes are failed over, and of which one dies."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from redis_sessions import Keyring, RedisStore, StoreError
from redis_sessions.messages import Messages
from redis_sessions.session.box import Box
from redis_sessions.session.record import tombstone
from redis_sessions.stores.redis import servers_of
from redis_sessions.testing import topology
from tests.integration.cluster_slots import MINUTE, id_in, slots_of
from tests.support.asgi import KEY
from tests.support.listening import said, until, until_heard
from tests.support.near import Told, copy, kept, served_at_most, soon, store_on, stored
from tests.support.servers import app_user, as_app, as_owner

pytestmark = pytest.mark.anyio

BOUND = 0.3


@pytest.fixture(scope="module")
def running(server_binary: Path) -> Iterator[topology.ClusterTopology]:
    """Three primaries with one replica each, which these tests change."""
    options = app_user(cluster=True, replicas=True)
    with topology.cluster(server=server_binary, options=options) as running:
        yield running


@pytest.fixture
async def store(running: topology.ClusterTopology, prefix: str) -> AsyncIterator[RedisStore]:
    async with store_on(as_app(running.url), prefix, client_cache=BOUND) as store:
        yield store


@pytest.fixture
async def other(running: topology.ClusterTopology, prefix: str) -> AsyncIterator[RedisStore]:
    """Another process."""
    async with store_on(as_app(running.url), prefix) as store:
        yield store


@pytest.fixture(autouse=True)
def _nothing_is_polled(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No node is believed to be one that can't tell what changes."""
    yield
    assert "doesn't say which keys change" not in "\n".join(
        record.message for record in caplog.get_records("call")
    )


async def test_keys_on_several_nodes(
    running: topology.ClusterTopology, store: RedisStore, other: RedisStore, prefix: str
) -> None:
    """Each node tells of its keys, and its connection's end concerns no other node's copies."""
    ids = [id_in(slots_of(running, node), prefix) for node in running.primaries]
    values = [await stored(other, id) for id in ids]
    told = [Told(store, id) for id in ids]
    for id, each, value in zip(ids, told, values, strict=True):
        await each.until(value)
        await kept(store, id)
    before = [store.near_copy(id) for id in ids]
    running.slot_owner(prefix + ids[0]).ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await soon(lambda: store.near_copy(ids[0]) is not before[0])
    await soon(lambda: [store.near_copy(id) for id in ids[1:]] == before[1:])
    for id, each, value in zip(ids, told, values, strict=True):
        await each.until(await stored(other, id, value))


async def test_what_was_stored_at_once(
    store: RedisStore, other: RedisStore, prefix: str, running: topology.ClusterTopology
) -> None:
    """A copy is kept of each, although the node tells of one before it answers the next."""
    ids = [id_in(slots_of(running, running.primaries[0]), prefix) for _ in range(12)]
    assert await asyncio.gather(*map(store.load, ids)) == [None] * 12
    values = await asyncio.gather(*(stored(store, id) for id in ids))
    assert [copy(store, id) for id in ids] == values
    await asyncio.gather(*map(stored, [other] * 12, ids, values))
    await soon(lambda: {copy(store, id) for id in ids} == {None})


async def test_a_slot_moves(
    running: topology.ClusterTopology, store: RedisStore, other: RedisStore, prefix: str
) -> None:
    """Its copies aren't served any more, and the node that has it now tells of its keys."""
    source, target, *_ = running.primaries
    slots = slots_of(running, source)[:1]
    id, absent = id_in(slots, prefix), id_in(slots, prefix)
    value = await stored(other, id)
    told, nothing = Told(store, id), Told(store, absent)
    await told.until(value)
    await nothing.until(None)
    await kept(store, id)
    await asyncio.to_thread(running.move_slots, slots, source, target)
    newer = await stored(other, id, value)
    await soon(lambda: copy(store, id) != value)
    await told.until(newer)
    assert await kept(store, id) == newer
    # Nobody told of what was absent: that this slot has moved is reason enough to read it again.
    await nothing.until(await stored(other, absent))
    await told.until(await stored(other, id, newer))
    await soon(lambda: copy(store, id) != newer)


async def test_a_slot_that_is_moving(
    running: topology.ClusterTopology, other: RedisStore, prefix: str
) -> None:
    """Who watches a key that has left already is told of what changes where it is now.

    This process asks nothing else. Its writes wait for replicas, and so have a link of their own.
    """
    source, target, *_ = running.primaries
    (slot,) = slots_of(running, source)[:1]
    here, there = (node.ask("CLUSTER", "MYID") for node in (source, target))
    id = id_in(range(slot, slot + 1), prefix)
    value = await stored(other, id)
    async with store_on(as_app(running.url), prefix, wait_replicas=1) as store:
        told = Told(store, id)
        await told.until(value)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        source.ask("MIGRATE", "127.0.0.1", target.port, prefix + id, 0, 5000)
        seen = len(told.values)
        await soon(lambda: len(told.values) > seen)
        value = await stored(other, id, value)
        await told.until(value)
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", there)
        value = await stored(other, id, value)
        await told.until(value)
    await asyncio.to_thread(running.wait_ready)


async def test_a_node_that_serves_nothing_any_more(
    running: topology.ClusterTopology, store: RedisStore, other: RedisStore, prefix: str
) -> None:
    """It is still a primary, and says so, but has lost the others: its copies count no longer."""
    node = running.primaries[0]
    *slots, lost = slots_of(running, node)
    id = id_in(range(slots[0], lost), prefix)
    value = await stored(other, id)
    told = Told(store, id)
    await told.until(value)
    await kept(store, id)
    node.ask("CLUSTER", "DELSLOTS", lost)  # as for one that is cut off: the Cluster is down
    try:
        with pytest.raises(StoreError, match="cluster is down"):
            await other.load(id)
        assert node.role() == "primary"
        await soon(lambda: copy(store, id) is None, 5)
    finally:
        node.ask("CLUSTER", "ADDSLOTS", lost)
    await asyncio.to_thread(running.wait_ready)
    value = await stored(other, id, value)
    await told.until(value)
    assert await kept(store, id) == value


async def test_38_a_node_is_failed_over(
    running: topology.ClusterTopology, store: RedisStore, other: RedisStore, prefix: str
) -> None:
    """It goes on answering as a replica, and isn't believed; the new primary is watched."""
    node = running.primaries[-1]
    ids = [id_in(slots_of(running, node), prefix) for _ in range(3)]
    values = [await stored(other, id) for id in ids]
    told = [Told(store, id) for id in ids]
    for id, each, value in zip(ids, told, values, strict=True):
        await each.until(value)
        await kept(store, id)
    replica = running.replicas_of(node)[0]
    await asyncio.to_thread(running.failover, replica)
    values = [await stored(other, id, value) for id, value in zip(ids, values, strict=True)]
    for id, each, value in zip(ids, told, values, strict=True):
        await each.until(value)
        await served_at_most(store, id, value)
        assert await kept(store, id) == value
        await each.until(await stored(other, id, value))


# `python -m redis_sessions.cli`, but that it looks more often who the primaries are.
EVENTS = """
import runpy
from redis_sessions.cli import notices
notices._EVERY = 0.1
runpy.run_module("redis_sessions.cli", run_name="__main__", alter_sys=True)
"""


async def test_the_command_events_follows(
    running: topology.ClusterTopology, other: RedisStore, prefix: str
) -> None:
    """A node that becomes a primary is watched, and what it stored before that is told, too."""
    before, elsewhere = running.primaries[-1], running.primaries[0]
    after = running.replicas_of(before)[0]
    ids = [id_in(slots_of(running, before), prefix) for _ in range(4)]
    values = [await stored(other, id) for id in ids[:2]]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EVENTS, "events", as_owner(running.url), "--prefix", prefix),
        "--json",
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None

    async def told() -> tuple[str, str]:
        assert process.stdout is not None
        line = json.loads(await process.stdout.readline())
        return line["event"], line["id"]

    try:
        assert await process.stderr.readline() == b"watching\n"
        process.send_signal(SIGSTOP)
        await asyncio.to_thread(running.failover, after)
        # It stays there, and hears nothing more of these slots.
        before.ask("CLUSTER", "REPLICATE", elsewhere.ask("CLUSTER", "MYID"))
        await asyncio.to_thread(running.wait_ready)
        await stored(other, ids[2])
        await other.end(ids[0], tombstone(0), MINUTE)
        process.send_signal(SIGCONT)
        assert {await told(), await told()} == {("ended", ids[0]), ("created", ids[2])}
        assert await process.stderr.readline() == f"watching {after.address}/0, too\n".encode()
        await stored(other, ids[1], values[1])
        assert await told() == ("changed", ids[1])
        await stored(other, ids[3])
        assert await told() == ("created", ids[3])
    finally:
        process.kill()
        await process.communicate()
        before.ask("CLUSTER", "REPLICATE", after.ask("CLUSTER", "MYID"))
        await asyncio.to_thread(running.wait_ready)


async def test_a_node_dies(
    running: topology.ClusterTopology, store: RedisStore, other: RedisStore, prefix: str
) -> None:
    """The others tell meanwhile; when a replica has taken over, its keys are read and watched."""
    node, *others = running.primaries
    ids = [id_in(slots_of(running, each), prefix) for each in (node, *others)]
    more = [Told(store, id_in(slots_of(running, node), prefix)) for _ in range(20)]
    values = [await stored(other, id) for id in ids]
    told = [Told(store, id) for id in ids]
    for id, each, value in zip(ids, told, values, strict=True):
        await each.until(value)
        await kept(store, id)
    replica = running.replicas_of(node)[0]
    node.kill()
    await soon(lambda: copy(store, ids[0]) is None)
    for id, each, value in zip(ids[1:], told[1:], values[1:], strict=True):
        await each.until(await stored(other, id, value))
    seen = [len(each.values) for each in more]
    with suppress(ResponseError):  # the others may have voted for it already
        replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
    await soon(lambda: all(len(e.values) > n for e, n in zip(more, seen, strict=True)))

    async def change() -> bytes:
        while True:
            try:
                return await stored(other, ids[0], values[0])
            except StoreError:
                await asyncio.sleep(0.05)

    async with asyncio.timeout(20):
        value = await change()
    await told[0].until(value)
    assert await kept(store, ids[0]) == value
    node.start()
    await asyncio.to_thread(running.wait_ready)


@pytest.mark.parametrize("how", ["the map says so", "a slot moves", "a failover", "a node dies"])
async def test_messages(running: topology.ClusterTopology, how: str) -> None:
    """Who listens there is told of the gap, and hears what the node is sent that has it now."""
    url = as_app(running.url)
    channel = "session:msg:" + Box(Keyring(KEY), "session:", b"rs-message").names("all")[0]
    source = running.slot_owner(channel)
    async with store_on(url) as here, store_on(url) as there:
        messages, other = Messages(here, KEY), Messages(there, KEY)
        async with messages.listen(all=True) as heard:
            assert await until(heard, n := await said(other)) == [n]
            if how == "the map says so":  # of a node that is cut off, and doesn't know it
                servers = servers_of(here)
                assert servers.on_moved is not None
                servers.on_moved({key_slot(channel.encode())})
            elif how == "a slot moves":
                target = next(node for node in running.primaries if node is not source)
                slot = key_slot(channel.encode())
                await asyncio.to_thread(running.move_slots, [slot], source, target)
            elif how == "a failover":
                await asyncio.to_thread(running.failover, running.replicas_of(source)[0])
            else:
                replica = running.replicas_of(source)[0]
                source.kill()
                with suppress(ResponseError):  # the others may have voted for it already
                    replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
            items = await until_heard(heard, other)
            assert None in items
            assert items[-1] is not None
    if how == "a node dies":
        source.start()
        await asyncio.to_thread(running.wait_ready)

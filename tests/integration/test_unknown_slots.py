"""Slots of a Cluster that no node has, for long or for a moment, or that one node doesn't know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from redis_sessions import RedisStore, StoreUnavailableError
from redis_sessions.connect.nodes import PATIENCE
from redis_sessions.testing import topology
from tests.integration.cluster_slots import id_in, slots_of
from tests.support.deployments import until
from tests.support.proxy import Proxy
from tests.support.servers import app_user, as_app, as_user


@pytest.fixture(scope="module")
def running(server_binary: Path) -> Iterator[topology.ClusterTopology]:
    options = {**app_user(cluster=True), "cluster-require-full-coverage": "no"}
    with topology.cluster(replicas=0, server=server_binary, options=options) as c:
        yield c


async def test_a_slot_that_nobody_has(running: topology.ClusterTopology, prefix: str) -> None:
    """It is a 503 of the server's, and other slots are served."""
    node, slot = running.primaries[0], slots_of(running, running.primaries[0])[0]
    store = RedisStore(as_app(running.url), prefix=prefix)
    await store.connect()
    for each in running.nodes:
        each.ask("CLUSTER", "DELSLOTS", slot)
    try:
        lost, kept = (id_in(slots, store.prefix) for slots in (range(slot, slot + 1), range(9000)))
        fresh = RedisStore(as_app(running.url), prefix=store.prefix, timeout=0.3)
        for each_store in (fresh, store):
            with pytest.raises(StoreUnavailableError) as caught:
                await each_store.load(lost)
            assert caught.value.reason == "server"
            assert await each_store.load(kept) is None
        await fresh.close()
        await store.close()
    finally:
        node.ask("CLUSTER", "ADDSLOTS", slot)
        await asyncio.to_thread(running.wait_ready)


async def test_a_slot_that_nobody_has_for_a_moment(
    running: topology.ClusterTopology, prefix: str
) -> None:
    """As in a failover: the load waits for a map that has the slot."""
    node, slot = running.primaries[0], slots_of(running, running.primaries[0])[0]
    store = RedisStore(as_app(running.url), prefix=prefix, timeout=2.5)

    async def asked() -> bool:
        return any("cmdstat_cluster|slots" in each.ask("INFO", "commandstats") for each in nodes)

    nodes = running.nodes
    for each in nodes:
        each.ask("CLUSTER", "DELSLOTS", slot)
        each.ask("CONFIG", "RESETSTAT")
    try:
        loading = asyncio.ensure_future(store.load(id_in(range(slot, slot + 1), store.prefix)))
        await until(asked)
        assert not loading.done()
    finally:
        node.ask("CLUSTER", "ADDSLOTS", slot)
    assert await loading is None
    await asyncio.to_thread(running.wait_ready)
    await store.close()


@asynccontextmanager
async def after_trouble(
    node: topology.Node, prefix: str, time_outs: float
) -> AsyncGenerator[tuple[RedisStore, Proxy]]:
    """A store that failed to fetch its first map so long ago, and now may, by the proxy alone."""
    node.ask("ACL", "SETUSER", "other", "on", ">sesame", "~*", "+@all", "-cluster")
    with Proxy(node.port) as proxy:
        url = as_user(f"redis+cluster://127.0.0.1:{proxy.port}", "other:sesame")
        store = RedisStore(url, prefix=prefix, timeout=2.5)
        with pytest.raises(StoreUnavailableError, match=r"NOPERM|permission"):
            await store.load(id_in(range(16_384), store.prefix))
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(store.timeout * time_outs, passed.set)
        node.ask("ACL", "SETUSER", "other", "+cluster")
        node.ask("CONFIG", "RESETSTAT")
        await passed.wait()
        proxy.freeze(requests=False)
        yield store, proxy
        await store.close()
    node.ask("ACL", "DELUSER", "other")


async def asked_for_map(node: topology.Node) -> None:
    """Return when the node has been asked."""

    async def asked() -> bool:
        return "cmdstat_cluster|slots" in node.ask("INFO", "commandstats")

    await until(asked)


async def test_a_map_that_is_on_its_way_long_after_trouble(
    running: topology.ClusterTopology, prefix: str
) -> None:
    """All requests wait for it, and none is told what was wrong then."""
    node = running.primaries[0]
    async with after_trouble(node, prefix, 1) as (store, proxy):
        id = id_in(slots_of(running, node), store.prefix)
        first = asyncio.ensure_future(store.load(id))
        await asked_for_map(node)
        second = asyncio.ensure_future(store.load(id))
        await asyncio.to_thread(proxy.heal)
        assert await first is None
        assert await second is None


async def test_a_moment_that_begins_after_trouble(
    running: topology.ClusterTopology, prefix: str
) -> None:
    """A map that couldn't be fetched lacked no slots: the load waits for the next one as ever."""
    node, slot = running.primaries[0], slots_of(running, running.primaries[0])[0]
    async with after_trouble(node, prefix, PATIENCE) as (store, proxy):
        for each in running.nodes:
            each.ask("CLUSTER", "DELSLOTS", slot)
        try:
            loading = asyncio.ensure_future(store.load(id_in(range(slot, slot + 1), store.prefix)))
            await asked_for_map(node)  # so the first map lacks the slot, and the second one has it
        finally:
            node.ask("CLUSTER", "ADDSLOTS", slot)
        proxy.heal()
        assert await loading is None
    await asyncio.to_thread(running.wait_ready)


async def test_a_node_that_lacks_a_slot(running: topology.ClusterTopology, prefix: str) -> None:
    """Another node of the URL is asked for the map."""
    owner, other, third = running.primaries
    slot = slots_of(running, owner)[0]
    for lacking, complete in [(other, third), (third, other)] * 2:
        url = as_app(f"redis+cluster://{lacking.address},{complete.address}")
        store = RedisStore(url, prefix=prefix, timeout=0.3)  # no time for a second map
        lacking.ask("CLUSTER", "DELSLOTS", slot)
        assert await store.load(id_in(range(slot, slot + 1), store.prefix)) is None
        await store.close()
        await asyncio.to_thread(running.wait_ready)

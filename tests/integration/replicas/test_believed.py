"""When a replica's answer isn't taken: it is late, or the replica follows another primary."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from redis_sessions import RedisStore
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import replicas as replicas_module
from redis_sessions.testing import store_session, topology
from tests.integration.replicas.lagging import Lagging, follows, in_copy, wait_for_copies
from tests.support.apps import manager_on
from tests.support.deployments import until
from tests.support.proxy import Proxy
from tests.support.servers import as_app


async def test_a_reply_that_comes_too_late(
    lagging: Lagging, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked in time, and is answered beyond the bound, may have been overtaken."""
    with Proxy(lagging.replica.port) as way:
        both = f"{lagging.primary.address},127.0.0.1:{way.port}"
        manager = manager_on(as_app(f"redis://{both}/0?replicas=read"), prefix, timeout=2.5)
        store = manager.store
        assert isinstance(store, RedisStore)
        await wait_for_copies(manager)
        token = await store_session(manager, {"n": 1})
        await until(lambda: in_copy(manager, token))
        asked = lagging.reads()
        way.freeze(requests=False)
        copy = store.load_from_replica(token[:20])
        assert copy is not None
        reading = asyncio.ensure_future(copy)

        async def is_read() -> bool:
            return lagging.reads() > asked

        await until(is_read)
        monkeypatch.setattr(replicas_module, "MAX_LAG", 0)  # all of before is too long ago
        way.heal()
        assert await reading is None
        await manager.close()


async def test_a_replica_of_another_primary(server_binary: Path) -> None:
    """It may be further in its primary's stream than ours is in its own, and has none of our data.

    Once it follows the right primary, it is asked.
    """
    with (
        topology.single(server=server_binary) as ours,
        topology.replicas(1, server=server_binary) as theirs,
    ):
        primary, replica = ours.primary, theirs.nodes[1]
        manager = manager_on(f"redis://{primary.address},{replica.address}/0?replicas=read")
        store = manager.store
        assert isinstance(store, RedisStore)

        def looks() -> int:
            """How often anybody has asked the replica how it is, this test included."""
            stats = replica.ask("INFO", "commandstats")
            return int(stats.get("cmdstat_info", {"calls": 0})["calls"])

        before, own = looks(), itertools.count(1)

        async def was_judged() -> bool:
            assert store.load_from_replica(SessionToken.generate().id) is None
            # The store asks three times when it connects, and once each time that follows.
            return looks() - before - next(own) > 4

        await until(was_judged)
        replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        follows(replica)
        await wait_for_copies(manager)
        await manager.close()

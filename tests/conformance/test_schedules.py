"""The schedule of ends, and who is told of them: over memory, each server and each deployment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest

from redis_sessions import MemoryStore, RedisStore, SessionManager
from redis_sessions.lifecycle.expiry import Expired
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.sweep import sweep
from redis_sessions.stores import Store
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.redis import servers_of
from redis_sessions.stores.schedule import (
    SHARDS,
    Due,
    Schedule,
    schedule_of,
    shard_of,
    try_schedule,
)
from redis_sessions.testing import store_session
from redis_sessions.testing.conformance import MINUTE, new_id, new_record
from tests.support.deployments import Deployment
from tests.support.servers import Server
from tests.unit.setting import KEY

NOW: Final = 0
NEARLY: Final = 1_800_000_000.99
ADA: Final = {"user_id": "ada"}


async def due(schedule: Schedule, *ids: str) -> list[Due]:
    """Those of these that are due."""
    pages = [await schedule.due(shard, 500) for shard in sorted({shard_of(id) for id in ids})]
    return [each for found, _ in pages for each in found if each.id in ids]


class Conformance:
    """What a schedule does."""

    async def test_it_leaves_nothing(self, store: Store) -> None:
        """Trying it out in each shard raises nothing, and nothing is due then."""
        schedule = schedule_of(store)
        await try_schedule(schedule, "test")

        assert [await schedule.due(shard, 500) for shard in SHARDS] == [([], False)] * 16

    async def test_what_is_due(self, store: Store) -> None:
        """It is given until it is removed, as it was noted last, and nothing else is."""
        schedule, id, later = schedule_of(store), new_id(), new_id()
        await schedule.note(id, MINUTE, b"first")
        await schedule.note(later, MINUTE, b"later")
        assert await due(schedule, id, later) == []
        await schedule.note(id, NOW, about := bytes(range(256)))

        (found,) = await due(schedule, id, later)
        assert (found.id, found.about) == (id, about)
        assert await due(schedule, id) == [found]
        await schedule.remove(shard_of(id), [found])
        assert await due(schedule, id) == []

    async def test_what_was_noted_since(self, store: Store) -> None:
        """It isn't removed."""
        schedule, id = schedule_of(store), new_id()
        await schedule.note(id, -MINUTE, b"first")
        (found,) = await due(schedule, id)
        await schedule.note(id, NOW, b"second")
        await schedule.remove(shard_of(id), [found])

        assert [each.about for each in await due(schedule, id)] == [b"second"]

    async def test_the_first_ones(self, store: Store) -> None:
        """No more are given than were asked for, those first that are due longest."""
        schedule, ids = schedule_of(store), list[str]()
        while len(ids) < 4:
            if shard_of(id := new_id()) == "a":
                ids.append(id)
                await schedule.note(id, -MINUTE + len(ids), b"x")

        found, more = await schedule.due("a", 3)
        assert ([each.id for each in found], more) == (ids[:3], True)
        await schedule.remove("a", found)
        found, more = await schedule.due("a", 3)
        assert ([each.id for each in found], more) == (ids[3:], False)

    async def test_another_end(self, store: Store) -> None:
        """Who ended otherwise is never due, even if a note comes late."""
        schedule, id = schedule_of(store), new_id()
        await schedule.note(id, NOW, b"x")
        await schedule.end(id)
        await schedule.note(id, NOW, b"late")

        assert await due(schedule, id) == []

    async def test_an_end_of_which_nothing_is_known(self, store: Store) -> None:
        """If a shard has nothing, an end leaves nothing: perhaps nobody keeps the schedule."""
        schedule, id = schedule_of(store), new_id()
        await schedule.end(id)
        await schedule.note(id, NOW, b"x")

        assert [each.about for each in await due(schedule, id)] == [b"x"]

    async def test_what_is_left(self, store: Store) -> None:
        """How long a record lives, and None if there is none."""
        schedule, id = schedule_of(store), new_id()
        assert await schedule.left(id) is None
        await store.commit(id, None, new_record(), MINUTE)

        left = await schedule.left(id)
        assert left is not None
        assert MINUTE / 2 < left <= MINUTE

    async def test_too_old(self, store: Store) -> None:
        """What nobody has asked for within 30 days is forgotten."""
        schedule, id = schedule_of(store), new_id()
        await schedule.note(id, -31 * 24 * 60 * MINUTE, b"x")
        while shard_of(other := new_id()) != shard_of(id):
            pass
        await schedule.note(other, MINUTE, b"x")

        assert await due(schedule, id) == []

    async def test_an_application(self, store: Store) -> None:
        """It is told of a session that ran out, once, and of no other."""
        told = list[Expired]()
        manager = SessionManager(store, KEY, on_expired=told.append)
        # Ten milliseconds before the second in which all of its sessions end.
        brief = SessionManager(store, KEY, on_expired=print, max_age=1, clock=lambda: NEARLY)
        expiry = backend_of(manager).expiry
        assert expiry is not None
        await expiry.check()
        ended, there = [(await store_session(manager, ADA))[:20] for _ in range(2)]
        assert await manager.revoke(ended, "ada")
        await expiry.wait_written()
        for id in (ended, there):
            await schedule_of(store).note(id, NOW, b"x")
        gone = (await store_session(brief, ADA))[:20]
        await self.look_at(store, gone)
        async with asyncio.timeout(30):
            while not told:
                await sweep(expiry)
        await sweep(expiry)

        assert [(each.id, each.principal) for each in told] == [(gone, "ada")]
        assert await due(schedule_of(store), gone, there, ended) == []

    async def look_at(self, store: Store, id: str) -> None:
        """See that what was noted of a session is as it should be."""


class TestMemoryStore(Conformance):
    """In this process."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class InRedis(Conformance):
    """What is the same on each server."""

    async def look_at(self, store: Store, id: str) -> None:
        assert isinstance(store, RedisStore)
        name = f"{store.prefix}due:{{{shard_of(id)}}}"
        for key, read in ((name, "ZSCORE"), (f"{name}:about", "HGET")):
            found, left = [
                await servers_of(store).index_commands.submit(IndexCommand(key, command), 64)
                for command in ((read, key, id), ("PTTL", key))
            ]
            assert found
            assert b"ada" not in found
            assert left > 29 * 24 * 60 * MINUTE


class TestRedisStore(InRedis):
    """Over Redis and Valkey."""

    @pytest.fixture
    async def store(self, server: Server, prefix: str) -> AsyncIterator[RedisStore]:
        store = RedisStore(server.url, prefix=prefix)
        yield store
        await store.close()


@pytest.mark.parametrize("deployment", ["sentinel", "cluster", "acl"], indirect=True)
class TestDeployments(InRedis):
    """Over Sentinel and Cluster, and as a user who has the rights of `redis-sessions acl`."""

    @pytest.fixture
    async def store(self, deployment: Deployment, prefix: str) -> AsyncIterator[RedisStore]:
        store = RedisStore(deployment.url, prefix=prefix, **deployment.options)
        yield store
        await store.close()


@pytest.mark.parametrize("deployment", ["cluster"], indirect=True)
@pytest.mark.parametrize("odd", ["{a}", "a{", "}{b}c{d}"])
async def test_a_prefix_with_braces(deployment: Deployment, prefix: str, odd: str) -> None:
    """In a Cluster both keys of a shard are in one slot, whatever the prefix's own tag is."""
    store = RedisStore(deployment.url, prefix=prefix + odd)
    await try_schedule(schedule_of(store), "test")
    await store.close()

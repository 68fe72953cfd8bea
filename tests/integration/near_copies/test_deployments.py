"""Near copies and watching on every deployment: Sentinel, Cluster, TLS, users, replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from redis_sessions import RedisStore
from tests.support.deployments import Deployment
from tests.support.near import LONG, MINUTE, Told, copy, ended, kept, new_id, soon, store_on, stored

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(deployment: Deployment, prefix: str) -> AsyncIterator[RedisStore]:
    options = {**deployment.options, "client_cache": LONG}
    async with store_on(deployment.url, prefix, **options) as store:
        yield store


@pytest.fixture
async def other(deployment: Deployment, prefix: str) -> AsyncIterator[RedisStore]:
    """Another process."""
    async with store_on(deployment.url, prefix, **deployment.options) as store:
        yield store


async def test_another_process_changes_and_ends(store: RedisStore, other: RedisStore) -> None:
    """What was read is served from copies until it changes, on each node of a Cluster."""
    ids = [new_id() for _ in range(12)]
    values = await asyncio.gather(*(stored(other, id) for id in ids))
    assert await asyncio.gather(*(kept(store, id) for id in ids)) == values
    newer = await asyncio.gather(*map(stored, [other] * 12, ids, values))
    await soon(lambda: {copy(store, id) for id in ids} == {None})
    assert await asyncio.gather(*(kept(store, id) for id in ids)) == newer
    for id in ids:
        assert (await other.end(id, ended(), MINUTE)).result
    await soon(lambda: {copy(store, id) for id in ids} == {None})


async def test_this_process_changes_and_ends(store: RedisStore, other: RedisStore) -> None:
    """Its own changes count at once, over whichever connection they go."""
    ids = [new_id() for _ in range(12)]
    values = await asyncio.gather(*(stored(other, id) for id in ids))
    await asyncio.gather(*(kept(store, id) for id in ids))
    for id, value in zip(ids, values, strict=True):
        newer = await stored(store, id, value)
        assert copy(store, id) in (newer, None)
        await kept(store, id)
        assert (await store.end(id, ended(), MINUTE)).result
        assert copy(store, id) is None


async def test_who_watches_is_told(store: RedisStore, other: RedisStore) -> None:
    """Of each change, wherever the key is."""
    ids = [new_id() for _ in range(12)]
    told = [Told(store, id) for id in ids]
    values: list[bytes | None] = [None] * 12
    for writer in (other, store, other):
        for id, each, value in zip(ids, told, values, strict=True):
            await each.until(value)
            values[ids.index(id)] = await stored(writer, id, value)
    for each, value in zip(told, values, strict=True):
        await each.until(value)

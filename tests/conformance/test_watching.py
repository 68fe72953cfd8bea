"""The conformance suites of stores that tell of changes, and that have channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from redis_sessions import MemoryStore, RedisStore
from redis_sessions.testing import ChannelsConformance, WatchConformance
from redis_sessions.testing.conformance import new_id, new_record
from tests.support import LOOPS
from tests.support.deployments import Deployment
from tests.support.servers import Server


@pytest.mark.parametrize("anyio_backend", LOOPS)
class TestMemoryStore(WatchConformance):
    """In this process, on both event loops."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    async def test_a_loop_that_is_closed(self, store: MemoryStore) -> None:
        """Who watched in it is forgotten, and disturbs no write."""
        id, told = new_id(), list[bytes | None]()

        async def watch() -> None:
            store.watch(id, told.append)
            await asyncio.sleep(0)

        await asyncio.to_thread(partial(asyncio.run, watch()))
        assert told == [None]
        await store.commit(id, None, new_record(), 60_000)
        assert store._watchers == {}  # pyright: ignore[reportPrivateUsage] - nothing else shows it
        assert told == [None]


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize("client_cache", [0, 1.0])
class TestRedisStore(WatchConformance):
    """Over Redis and Valkey, with and without near copies, on both event loops."""

    @pytest.fixture
    async def store(
        self, server: Server, prefix: str, client_cache: float, anyio_backend: object
    ) -> AsyncIterator[RedisStore]:
        store = RedisStore(server.url, prefix=prefix, client_cache=client_cache)
        yield store
        await store.close()


@pytest.mark.parametrize("client_cache", [0, 1.0])
class TestDeployments(WatchConformance):
    """Over Sentinel, Cluster, TLS, an ACL's user, with replicas that are read and waited for."""

    @pytest.fixture
    async def store(
        self, deployment: Deployment, prefix: str, client_cache: float
    ) -> AsyncIterator[RedisStore]:
        options = deployment.options
        store = RedisStore(deployment.url, prefix=prefix, client_cache=client_cache, **options)
        yield store
        await store.close()


@pytest.mark.parametrize("anyio_backend", LOOPS)
class TestChannelsInMemory(ChannelsConformance):
    """In this process, on both event loops."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


@pytest.mark.parametrize("anyio_backend", LOOPS)
class TestChannelsOfRedis(ChannelsConformance):
    """Over Redis and Valkey, on both event loops. The user has rights for this prefix alone."""

    @pytest.fixture
    async def store(self, server: Server, anyio_backend: object) -> AsyncIterator[RedisStore]:
        store = RedisStore(server.url)
        yield store
        await store.close()


class TestChannelsOfDeployments(ChannelsConformance):
    """Over Sentinel, Cluster, TLS, an ACL's user."""

    @pytest.fixture
    async def store(self, deployment: Deployment) -> AsyncIterator[RedisStore]:
        store = RedisStore(deployment.url, **deployment.options)
        yield store
        await store.close()

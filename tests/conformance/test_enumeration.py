"""The conformance suite of stores that find all of their records."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from redis_sessions import MemoryStore, RedisStore
from redis_sessions.testing import EnumerationConformance
from tests.support.deployments import Deployment
from tests.support.servers import Server, as_owner


class TestMemoryStore(EnumerationConformance):
    """In this process."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestRedisStore(EnumerationConformance):
    """Over Redis and Valkey. What a pattern would read otherwise in the prefix means itself."""

    @pytest.fixture
    async def store(self, server: Server, prefix: str) -> AsyncIterator[RedisStore]:
        other = RedisStore(as_owner(server.url), prefix=f"{prefix}x")
        store = RedisStore(as_owner(server.url), prefix=f"{prefix}*")
        yield store
        await store.close()
        await other.close()


@pytest.mark.parametrize("deployment", ["sentinel", "cluster", "tls"], indirect=True)
class TestDeployments(EnumerationConformance):
    """Over Sentinel, Cluster and TLS, by a user who may do it."""

    @pytest.fixture
    async def store(self, deployment: Deployment, prefix: str) -> AsyncIterator[RedisStore]:
        store = RedisStore(as_owner(deployment.url), prefix=prefix, **deployment.options)
        yield store
        await store.close()

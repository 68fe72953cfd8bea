"""The index's conformance suite, over every store and every server that is here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from redis_sessions import MemoryStore, RedisStore
from redis_sessions.stores.protocols import SessionIndex
from redis_sessions.testing import IndexConformance
from tests.support.deployments import Deployment
from tests.support.servers import Server


class TestMemoryIndex(IndexConformance):
    """In this process."""

    @pytest.fixture
    def index(self) -> SessionIndex:
        return MemoryStore()


class TestRedisIndex(IndexConformance):
    """Over Redis and Valkey."""

    @pytest.fixture
    async def index(self, server: Server, prefix: str) -> AsyncIterator[SessionIndex]:
        store = RedisStore(server.url, prefix=prefix)
        yield store
        await store.close()


class TestDeployments(IndexConformance):
    """Over Sentinel, Cluster, TLS, an ACL's user, with replicas that are read and waited for."""

    @pytest.fixture
    async def index(self, deployment: Deployment, prefix: str) -> AsyncIterator[SessionIndex]:
        store = RedisStore(deployment.url, prefix=prefix, **deployment.options)
        yield store
        await store.close()

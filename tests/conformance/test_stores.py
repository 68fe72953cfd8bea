"""The conformance suite, over every store and every server that is here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from redis_sessions import MemoryStore, RedisStore, SessionStore
from redis_sessions.testing import StoreConformance
from tests.support import LOOPS
from tests.support.deployments import Deployment
from tests.support.servers import Server


class TestMemoryStore(StoreConformance):
    """In this process."""

    @pytest.fixture
    def store(self) -> SessionStore:
        return MemoryStore()

    async def test_len(self, store: MemoryStore) -> None:
        """It counts what is alive."""
        await store.commit("a", None, bytes(50), 60_000)
        await store.commit("b", None, bytes(50), 0)
        assert len(store) == 1


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize("socket", ["tcp", "unix"])
class TestRedisStore(StoreConformance):
    """Over Redis and Valkey, over TCP and a Unix socket, on both event loops."""

    @pytest.fixture
    async def store(
        self, server: Server, prefix: str, socket: str, anyio_backend: object
    ) -> AsyncIterator[SessionStore]:
        url = server.url if socket == "tcp" else server.unix_url
        store = RedisStore(url, prefix=prefix)
        yield store
        await store.close()


class TestDeployments(StoreConformance):
    """Over Sentinel, Cluster, TLS, an ACL's user, with replicas that are read and waited for."""

    @pytest.fixture
    async def store(self, deployment: Deployment, prefix: str) -> AsyncIterator[SessionStore]:
        store = RedisStore(deployment.url, prefix=prefix, **deployment.options)
        yield store
        await store.close()

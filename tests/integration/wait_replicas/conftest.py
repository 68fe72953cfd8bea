"""A primary with two replicas, and stores whose writes wait for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from redis_sessions import RedisStore
from redis_sessions.testing import topology
from tests.support.servers import app_user, as_app


@pytest.fixture(scope="package")
def running(server_binary: Path) -> Iterator[topology.Topology]:
    with topology.replicas(2, server=server_binary, options=app_user(replicas=True)) as servers:
        yield servers


@pytest.fixture
def short(running: topology.Topology) -> Iterator[topology.Topology]:
    """One of the two replicas hangs."""
    replica = running.replicas[0]
    replica.pause()
    yield running
    replica.resume()
    running.wait_ready()


@pytest.fixture
async def strict(running: topology.Topology, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(as_app(running.url), prefix=prefix, wait_replicas=2, wait_timeout=0.1)
    yield store
    await store.close()

"""A lagging replica, and a manager that reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from redis_sessions import SessionManager
from redis_sessions.testing import topology
from tests.integration.replicas.lagging import Lagging, wait_for_copies
from tests.support.apps import manager_on
from tests.support.proxy import Proxy
from tests.support.servers import app_user


@pytest.fixture(scope="package")
def lagging(server_binary: Path) -> Iterator[Lagging]:
    with (
        topology.replicas(1, server=server_binary, options=app_user(replicas=True)) as servers,
        Proxy(servers.primary.port) as stream,
    ):
        lagging = Lagging(servers, stream)
        lagging.through_the_proxy()
        yield lagging


@pytest.fixture
async def manager(lagging: Lagging, prefix: str) -> AsyncIterator[SessionManager]:
    """A manager whose store has found the replica fresh."""
    manager = manager_on(lagging.url, prefix)
    await wait_for_copies(manager)
    yield manager
    await manager.close()

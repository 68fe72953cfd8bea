"""Managers and a look into Redis, for the tests of the lifecycle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from redis_sessions import RedisStore, SessionManager
from tests.support.apps import manager_on
from tests.support.deployments import DEPLOYMENTS, Deployment
from tests.support.redis_wire import Wire


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked `everywhere` runs over one Redis, and over each deployment."""
    if metafunc.definition.get_closest_marker("everywhere"):
        metafunc.parametrize("where", ["redis", *DEPLOYMENTS], indirect=True)


@pytest.fixture
def where(request: pytest.FixtureRequest) -> Deployment:
    """One Redis, or the deployment that a test is to run over."""
    name = getattr(request, "param", "redis")
    if name == "redis":
        return Deployment(request.getfixturevalue("redis_url"), {}, None)
    return DEPLOYMENTS[name](request)


@pytest.fixture
async def workers(where: Deployment, prefix: str) -> AsyncIterator[list[SessionManager]]:
    """Four processes' managers, each with a store of its own."""
    stores = [RedisStore(where.url, prefix=prefix, **where.options) for _ in range(4)]
    yield [manager_on(store) for store in stores]
    for store in stores:
        await store.close()


@pytest.fixture
def manager(workers: list[SessionManager]) -> SessionManager:
    return workers[0]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Wire]:
    """A look into the one Redis."""
    with Wire.of(redis_url) as wire:
        yield wire

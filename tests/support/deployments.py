"""Every deployment, for suites that run over all of them: a URL, and the options of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import pytest

from redis_sessions.testing import topology
from tests.support.servers import as_app


class Deployment(NamedTuple):
    """`RedisStore(url, prefix=…, **options)`, as the application's user.

    The topology is shared: break nothing.
    """

    url: str
    options: dict[str, Any]
    running: Any


def _of(url: str, running: Any, **options: Any) -> Deployment:
    """The servers of a busy machine may need longer than a request would wait."""
    return Deployment(url, {"timeout": 2.5, **options}, running)


def _sentinel(request: pytest.FixtureRequest) -> Deployment:
    running = request.getfixturevalue("sentinel_topology")
    return _of(as_app(running.url), running)


def _cluster(request: pytest.FixtureRequest) -> Deployment:
    running = request.getfixturevalue("cluster_topology")
    return _of(as_app(running.url), running)


def _tls(request: pytest.FixtureRequest) -> Deployment:
    running = request.getfixturevalue("tls_topology")
    return _of(as_app(running.url), running)


def _tls_sentinel(request: pytest.FixtureRequest) -> Deployment:
    running = request.getfixturevalue("tls_sentinel_topology")
    return _of(as_app(running.url), running)


def _tls_cluster(request: pytest.FixtureRequest) -> Deployment:
    running = request.getfixturevalue("tls_cluster_topology")
    return _of(f"{as_app(running.url)}&replicas=read", running, wait_replicas=1)


def _acl(request: pytest.FixtureRequest) -> Deployment:
    running = request.getfixturevalue("acl_topology")
    return _of(running.url, running)


def _waiting(request: pytest.FixtureRequest) -> Deployment:
    running = request.getfixturevalue("replicas_topology")
    return _of(as_app(running.url), running, wait_replicas=2, wait_for="all")


def _replicas(request: pytest.FixtureRequest) -> Deployment:
    running: topology.Topology = request.getfixturevalue("replicas_topology")
    return _of(replicas_url(running), running)


def _cluster_replicas(request: pytest.FixtureRequest) -> Deployment:
    running = request.getfixturevalue("cluster_topology")
    return _of(f"{as_app(running.url)}?replicas=read", running, wait_replicas=1)


DEPLOYMENTS: Final[dict[str, Callable[[pytest.FixtureRequest], Deployment]]] = {
    "sentinel": _sentinel,
    "cluster": _cluster,
    "tls": _tls,
    "tls-sentinel": _tls_sentinel,
    "tls-cluster": _tls_cluster,
    "acl": _acl,
    "waiting": _waiting,
    "replicas": _replicas,
    "cluster-replicas": _cluster_replicas,
}


def replicas_url(running: topology.Topology) -> str:
    """A primary and its replicas, which are read from."""
    nodes = [running.primary, *running.replicas]
    return as_app(f"redis://{','.join(node.address for node in nodes)}/0?replicas=read")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again: for what servers do by their own clocks, and don't announce."""
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)

"""A replica whose stream of writes can be held, and what it has of a session."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import httpx2

from redis_sessions import RedisStore, SessionManager
from redis_sessions.session.token import SessionToken
from redis_sessions.testing import topology
from redis_sessions.testing.topologies.processes import wait_until
from tests.support.apps import client_of, doing
from tests.support.deployments import until
from tests.support.proxy import Proxy
from tests.support.servers import as_app


class Lagging:
    """A primary, and one replica whose stream of writes comes through a proxy."""

    def __init__(self, servers: topology.Topology, stream: Proxy) -> None:
        self.primary, self.replica = servers.nodes
        both = f"{self.primary.address},{self.replica.address}"
        self.url = as_app(f"redis://{both}/0?replicas=read")
        self._stream = stream

    def through_the_proxy(self) -> None:
        """Have the replica follow through it."""
        self.replica.ask("REPLICAOF", "127.0.0.1", self._stream.port)
        follows(self.replica)

    @contextmanager
    def behind(self) -> Generator[None]:
        """The replica gets nothing that is written in here."""
        self._stream.freeze()
        try:
            yield
        finally:
            self._stream.heal()

    def reads(self) -> int:
        """How many records the replica was asked for."""
        said: dict[str, dict[str, int]] = self.replica.ask("INFO", "commandstats")
        return said.get("cmdstat_mget", {}).get("calls", 0)


def follows(replica: topology.Node) -> None:
    """Return once it has its primary's data, and gets what is new."""
    wait_until(lambda: "" if replica.ask("ROLE")[3] == "connected" else "it doesn't follow")


async def wait_for_copies(manager: SessionManager) -> None:
    store = manager.store
    assert isinstance(store, RedisStore)

    async def offered() -> bool:
        copy = store.load_from_replica(SessionToken.generate().id)
        if copy is not None:
            await copy  # the connection is there, and was judged, too
        return copy is not None

    for _ in range(3):
        await until(offered)


async def in_copy(manager: SessionManager, token: str) -> bool:
    """Whether the replica has this session."""
    store = manager.store
    assert isinstance(store, RedisStore)
    copy = store.load_from_replica(token[:20])
    return copy is not None and await copy is not None


async def see(manager: SessionManager, token: str) -> httpx2.Response:
    """What a browser without the hint is shown."""
    async with client_of(doing(manager=manager), token) as browser:
        return await browser.get("/do")

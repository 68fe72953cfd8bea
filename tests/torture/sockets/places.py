"""Where the sessions are: one server, one behind Sentinels, a Cluster."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from redis_sessions.testing import topology
from tests.support.servers import app_user, as_app

PLACES: Final = ("one server", "Sentinels", "a Cluster")


class Place(NamedTuple):
    """A deployment, and what `RedisStore` is given."""

    name: str
    url: str
    prefix: str = "session:"

    def store(self, **options: Any) -> dict[str, Any]:
        """The arguments of `RedisStore`, as JSON can have them."""
        return {"url_or_client": self.url, "prefix": self.prefix, **options}


@contextmanager
def place(
    name: str, server: Path | None = None, *, patience_ms: int = 1_500
) -> Generator[tuple[Place, topology.Topology | topology.ClusterTopology], None, None]:
    """Servers of its own, of this kind, and the topology to break them.

    A primary that doesn't answer for `patience_ms` is replaced.
    """
    if name == "one server":
        with topology.single(server=server, options=app_user()) as running:
            yield Place(name, as_app(running.url)), running
    elif name == "Sentinels":
        options = app_user(replicas=True)
        with topology.sentinel(
            down_after_ms=patience_ms, server=server, options=options
        ) as watched:
            yield Place(name, as_app(watched.url)), watched
    else:
        options = app_user(cluster=True, replicas=True)
        with topology.cluster(node_timeout_ms=patience_ms, server=server, options=options) as nodes:
            yield Place(name, as_app(nodes.url)), nodes

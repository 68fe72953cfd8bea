"""A deployment: which servers there are, and how a connection to one of them is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection

__all__ = ["Address", "Client", "Deployment", "Kind", "shown"]

Address = tuple[str, int]
Client = Redis | RedisCluster
Kind = Literal["server", "sentinel", "cluster", "embedded"]


@dataclass(frozen=True)
class Deployment:
    """Where to connect, and how.

    A URL and a ready redis-py client both become one. A client stays its owner's: its settings
    are used, and its connections aren't, since those belong to one event loop.
    """

    kind: Kind
    hosts: tuple[Address, ...] = ()
    """Servers (the primary first), Sentinels, or some nodes of a Cluster; none on a Unix socket."""
    name: str = ""
    """The name by which the Sentinels know the primary, or that of the embedded server."""
    connection_class: Any = Connection
    """redis-py's class of connections to the servers."""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Arguments of that class."""
    sentinel_class: Any = Connection
    """redis-py's class of connections to the Sentinels."""
    sentinel_arguments: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Arguments of that class."""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of redis-py's `Sentinel` itself."""
    remap: Callable[[Address], Address] | None = None
    """Gives the address at which a node is reached, for the address that the Cluster names."""
    max_connections: int | None = None
    """The most connections of one pool."""
    reads_replicas: bool = False
    """Whether reads may go to replicas."""
    client_cache: float | None = None
    """The greatest age of near copies in seconds, if the URL says so."""
    timeout: float | None = None
    """Seconds for a batch of commands, if the URL says so."""

    @property
    def tls(self) -> bool:
        """Whether connections use TLS."""
        return issubclass(self.connection_class, SSLConnection)


def shown(address: Address) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

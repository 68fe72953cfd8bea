"""What differs between the versions of redis-py that are supported: all of it is here."""

from __future__ import annotations

import asyncio
from inspect import signature
from typing import Any, Final

from redis.asyncio import RedisCluster, cluster
from redis.asyncio.connection import AbstractConnection, RedisSSLContext
from redis.exceptions import ConnectionError, InvalidResponse  # noqa: A004 - redis-py's

__all__ = ["QUIET", "REPLACED", "UNKNOWN_TLS", "startup_nodes", "take_over"]

_KNOWN: Final = signature(AbstractConnection).parameters


def _quiet() -> dict[str, Any]:
    arguments: dict[str, Any]
    if "driver_info" in _KNOWN:
        arguments = {"driver_info": None}
    else:  # before 7.2
        arguments = {"lib_name": None, "lib_version": None}
    if "maint_notifications_config" in _KNOWN:  # since 8.1
        from redis.maint_notifications import MaintNotificationsConfig

        arguments["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    parser = getattr(cluster, "ClusterParser", None)
    if parser is not None:  # before 6.0 no other parser knows a Cluster's errors
        arguments["parser_class"] = parser
    return arguments


QUIET: Final = _quiet()
"""Arguments of connections that send nothing of their own: no CLIENT SETINFO, at which twemproxy
closes the connection, and no request for notifications of maintenance."""

REPLACED: Final = ("lib_name", "lib_version") if "driver_info" in _KNOWN else ()
"""Arguments that redis-py's own clients of a Cluster give, of which its connections warn."""

UNKNOWN_TLS: Final = tuple(
    name
    for name in ("ca_path", "exclude_verify_flags", "include_verify_flags", "password")
    if name not in RedisSSLContext.__slots__
)
"""Options of TLS that redis-py doesn't take: before 7.2."""


def startup_nodes(client: RedisCluster) -> list[Any]:
    """The nodes that a client of a Cluster was given; before 7.0, those that it knows by now."""
    known: Any = client.nodes_manager.startup_nodes
    return list(getattr(client, "startup_nodes", known.values()))


def take_over(connection: Any, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, object]:
    """Give the socket of a new connection to another protocol; redis-py no longer knows it.

    Returns the transport, and what must be kept as long as that is open. `ConnectionError` if the
    server has closed the connection, or has sent something that nobody asked for.
    """
    stream, writer = connection._reader, connection._writer
    transport = writer.transport
    if stream.at_eof() or transport.is_closing():
        raise ConnectionError("the server closed the connection")
    if stream._buffer or connection._parser._reader.has_data():
        raise InvalidResponse("the server has sent something by itself")
    transport.set_protocol(protocol)
    connection._reader = connection._writer = None
    return transport, writer  # a StreamWriter that is collected closes its transport

"""What a ready redis-py client says about a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from redis_sessions.connect.deployment import Deployment
from redis_sessions.connect.tls import with_min_version
from redis_sessions.connect.versions import REPLACED, startup_nodes
from redis_sessions.errors import ConfigurationError

__all__ = ["deployment_from_client"]

# What redis-py adds to the arguments of connections for the use of the client itself.
_OF_THE_CLIENT: Final = (
    *("himport_registry", "event_dispatcher", "parser_class", "encoder_class", "connection_pool"),
    *("response_callbacks", "max_connections", "host", "port", *REPLACED),
)
_OF_MAINTENANCE: Final = ("maint_", "orig_", "maintenance_", "oss_cluster_")


def deployment_from_client(client: object) -> Deployment:
    """The deployment that a redis-py client is connected to, with the client's settings.

    There are three cases:

    1. A `RedisCluster`: its start-up nodes are asked for the others.
    2. A client of `Sentinel.master_for()`: its Sentinels are asked for the primary.
    3. A `Redis` with a plain pool: its server is the only one.

    Anything else is a `ConfigurationError`.
    """
    if isinstance(client, RedisCluster):
        given = _arguments(client.connection_kwargs)
        kind = given.pop("connection_class", Connection)
        given.pop("redis_connect_func", None)  # the client's own, which prepares replicas
        return Deployment(
            "cluster",
            tuple((node.host, int(node.port)) for node in startup_nodes(client)),
            connection_class=kind,
            arguments=_strict(kind, given),
            remap=client.nodes_manager.address_remap,
            max_connections=client.connection_kwargs.get("max_connections"),
            reads_replicas=bool(client.read_from_replicas or client.load_balancing_strategy),
        )
    pool: Any = None
    if isinstance(client, Redis) and not isinstance(client, Pipeline):
        pool = client.connection_pool
    if isinstance(cast("object", pool), SentinelConnectionPool) and pool.is_master:
        manager: Any = pool.sentinel_manager
        watchers: list[Any] = [client.connection_pool for client in manager.sentinels]
        kind = _plain(pool.connection_class)
        watching = watchers[0].connection_class
        return Deployment(
            "sentinel",
            tuple((w.connection_kwargs["host"], w.connection_kwargs["port"]) for w in watchers),
            name=str(pool.service_name),
            connection_class=kind,
            arguments=_strict(kind, _arguments(pool.connection_kwargs)),
            sentinel_class=watching,
            sentinel_arguments=_strict(watching, _arguments(watchers[0].connection_kwargs)),
            sentinel_options={
                "min_other_sentinels": manager.min_other_sentinels,
                "force_master_ip": vars(manager).get("_force_master_ip"),
            },
            max_connections=pool.max_connections,
        )
    if type(pool) not in (ConnectionPool, BlockingConnectionPool):
        raise ConfigurationError(
            f"store={type(client).__name__} can't be used: pass a URL, a redis.asyncio.Redis, or "
            "one of Sentinel.master_for(), a RedisCluster, or an object with the methods of "
            "SessionStore"
        )
    given = dict(pool.connection_kwargs)
    host = given.get("host", "localhost"), given.get("port", 6379)
    return Deployment(
        "server",
        () if "path" in given else (host,),
        connection_class=pool.connection_class,
        arguments=_strict(pool.connection_class, _arguments(given)),
        max_connections=pool.max_connections,
    )


def _plain(managed: type[Any]) -> Any:
    """The class of connections to a known host, for a class whose host the Sentinels find."""
    return SSLConnection if issubclass(managed, SSLConnection) else Connection


def _strict(kind: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    return with_min_version(given) if issubclass(kind, SSLConnection) else given


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in given.items()
        if name not in _OF_THE_CLIENT and not name.startswith(_OF_MAINTENANCE)
    }

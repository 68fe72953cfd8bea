"""From a URL, or a ready redis-py client, to pools of connections; one pool per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import Connection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from redis_sessions.embedded import ensure_server
from redis_sessions.errors import ConfigurationError

__all__ = ["SCHEMES", "Connector"]

_REDIS: Final = ("redis", "rediss", "unix")
MIN_CONNECTIONS: Final = 8
SCHEMES: Final = (*_REDIS, "embedded")

# What redis-py adds to the arguments of a client's connections for the client's own use.
_OF_THE_CLIENT: Final = ("himport_registry", "event_dispatcher", "parser_class", "encoder_class")
_OF_MAINTENANCE: Final = ("maint_", "orig_", "maintenance_", "oss_cluster_")


class Connector:
    """Opens pools to one Redis. `where` names it without credentials.

    A client that is passed in stays its owner's: its settings are used, not its connections,
    since those belong to one event loop.
    """

    def __init__(self, source: str | Redis, *, timeout: float) -> None:
        self._embedded: str | None = None
        self._class: Any = Connection
        arguments: dict[str, Any] = {"socket_connect_timeout": timeout}
        if isinstance(source, str):
            arguments.update(self._from_url(source))
        else:
            arguments.update(_of_client(source))
            self._class = source.connection_pool.connection_class
        self._class = arguments.pop("connection_class", self._class)
        self._max_connections: int | None = arguments.pop("max_connections", None)
        if self._max_connections is not None and self._max_connections < MIN_CONNECTIONS:
            raise ConfigurationError(
                f"max_connections={self._max_connections}: write {MIN_CONNECTIONS} or more; a "
                "process uses a few for each event loop, however many requests it serves"
            )
        # Batches have one deadline each, and their own retry; redis-py's are dear, or slow to fail.
        arguments.update(
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            protocol=2,
            decode_responses=False,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self._arguments = arguments
        self.where = self._describe()
        if self._embedded is None:
            try:
                self._pool(arguments).make_connection()
            except (TypeError, ValueError, RedisError) as exc:
                raise ConfigurationError(
                    f"the store's URL for {self.where} has an option that redis-py doesn't take: "
                    f"{exc}"
                ) from exc

    @property
    def starts_server(self) -> bool:
        """Whether opening starts the server, if it doesn't run."""
        return self._embedded is not None

    async def open(self) -> ConnectionPool:
        """A pool whose connections belong to the running loop; nothing is connected yet."""
        arguments = self._arguments
        if self._embedded is not None:
            path = await asyncio.to_thread(ensure_server, self._embedded)
            arguments = {**arguments, "path": path}
        return self._pool(arguments)

    def _pool(self, arguments: Mapping[str, Any]) -> ConnectionPool:
        return ConnectionPool(self._class, self._max_connections, **arguments)

    def _from_url(self, url: str) -> dict[str, Any]:
        try:
            parts = urlsplit(url)
            _ = parts.port
            if parts.scheme in ("redis", "rediss"):
                database = parts.path.strip("/")
                if not parts.netloc or (database and not database.isdigit()):
                    raise ValueError  # redis-py would take the default in its place
        except ValueError:
            # Not its text, nor the chain: a password may be what couldn't be read.
            raise ConfigurationError(
                "the store's URL can't be read: write redis://user:password@host:6379/0, with "
                "what isn't a letter or digit in user and password percent-encoded"
            ) from None
        if parts.scheme in _REDIS:
            try:
                return dict(parse_url(url))
            except ValueError as exc:  # of a known option, by name
                raise ConfigurationError(f"the store's URL can't be read: {exc}") from None
        if parts.scheme == "embedded":
            if parts.path not in ("", "/") or parts.query or parts.fragment:
                raise ConfigurationError(f"store={url!r}: write embedded:// or embedded://name")
            self._embedded = parts.netloc
            return {"connection_class": UnixDomainSocketConnection}
        schemes = ", ".join(f"{scheme}://" for scheme in (*SCHEMES, "memory"))
        raise ConfigurationError(
            f"store={parts.scheme + '://…' if parts.scheme else '…'!r} is no URL of a store: "
            f"write one of {schemes}, such as redis://localhost:6379/0"
        )

    def _describe(self) -> str:
        if self._embedded is not None:
            return "the embedded server"
        given = self._arguments
        if "path" in given:
            return f"unix:{given['path']}"
        host, port = given.get("host", "localhost"), given.get("port", 6379)
        return f"{host}:{port}/{given.get('db', 0)}"


def _of_client(client: Redis) -> dict[str, Any]:
    pool: Any = getattr(client, "connection_pool", None)
    if type(pool) not in (ConnectionPool, BlockingConnectionPool):  # Sentinel's is one, too
        raise ConfigurationError(
            f"store={type(client).__name__} can't be used: pass a URL, a redis.asyncio.Redis, "
            "or an object with the methods of SessionStore"
        )
    given: dict[str, Any] = pool.connection_kwargs
    return {
        name: value
        for name, value in given.items()
        if name not in _OF_THE_CLIENT and not name.startswith(_OF_MAINTENANCE)
    }

"""Pools of connections to the servers of one deployment; each pool belongs to one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final, cast

from redis import exceptions as errors
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)
from redis.backoff import NoBackoff

from redis_sessions.connect.embedded import ensure_server
from redis_sessions.connect.tls import Managed, own, shortcomings
from redis_sessions.connect.urls import Address, Client, Deployment
from redis_sessions.connect.versions import QUIET
from redis_sessions.errors import ConfigurationError, check_bound

__all__ = ["Connector", "connector_of", "discreet", "shown"]

MIN_CONNECTIONS: Final = 8
TIMEOUT: Final = 2.0
MAX_TIMEOUT: Final = 2.5  # three times it, and a manager's deadline: well below a tombstone's life
_REFUSALS: Final = (errors.AuthenticationError, errors.NoPermissionError)

_logger: Final = logging.getLogger("redis_sessions")

Greeting = Callable[[Any], Awaitable[None]]
"""What a new connection of a pool does, once the server has let it in."""


class Connector:
    """Opens pools to one server of a deployment. `where` names it without credentials.

    Without an `address` it leads to the one server, to whatever the Sentinels call the primary,
    or to the first host of several.
    """

    def __init__(
        self,
        deployment: Deployment,
        timeout: float,
        address: Address | None = None,
        greeting: Greeting | None = None,
    ) -> None:
        self.deployment = deployment
        self.timeout = timeout
        self._address = address
        self._greeting = greeting
        self._watched = deployment.kind == "sentinel" and address is None
        self.where = self._describe()

    @property
    def starts_server(self) -> bool:
        """Whether opening starts the server, if it doesn't run."""
        return self.deployment.kind == "embedded"

    @property
    def address(self) -> Address:
        """Of the server, or of the first host."""
        return self._address or self.deployment.hosts[0]

    def to(self, address: Address, greeting: Greeting | None = None) -> Connector:
        """One to another server of the deployment."""
        return Connector(self.deployment, self.timeout, address, greeting)

    def greeted(self, greeting: Greeting) -> Connector:
        """One to the same server."""
        return Connector(self.deployment, self.timeout, self._address, greeting)

    async def open(self) -> ConnectionPool:
        """A pool whose connections belong to the running loop; nothing is connected yet."""
        if self.starts_server:
            path = await asyncio.to_thread(ensure_server, self.deployment.name)
            return self._pool({"path": path})
        return self._pool({})

    @staticmethod
    async def tidy(pool: ConnectionPool) -> None:
        """After a failed attempt: redis-py keeps connections whose handshake was broken off."""
        for each in _with_sentinels(pool):
            # Taken out first: another task may want one while it is being closed.
            count = len(cast("list[Any]", vars(each)["_available_connections"]))
            for connection in [each.get_available_connection() for _ in range(count)]:
                await connection.disconnect(nowait=True)
                await each.release(connection)

    @staticmethod
    async def close(pool: ConnectionPool) -> None:
        """Disconnect what a pool has, and its Sentinels."""
        for each in _with_sentinels(pool):
            with suppress(errors.TimeoutError):  # over TLS, a server that hangs says no goodbye
                await each.disconnect()

    @property
    def watched(self) -> bool:
        """Whether Sentinels say where the server is."""
        return self._watched

    @staticmethod
    async def has_moved(pool: ConnectionPool) -> bool:
        """Whether the Sentinels name another primary than the one that a pool led to last."""
        managed = cast("Any", pool)
        if not isinstance(pool, SentinelConnectionPool) or managed.master_address is None:
            return False
        try:
            address = await managed.sentinel_manager.discover_master(managed.service_name)
        except (errors.RedisError, AttributeError):  # redis-py's, if a Sentinel goes meanwhile
            return False  # they don't know of any, which is no reason to leave
        return bool(address != managed.master_address)

    def check(self) -> None:
        """`ConfigurationError` if redis-py, or TLS, can't work with what was given.

        What TLS is to do without is logged.
        """
        limit = self.deployment.max_connections
        if limit is not None and limit < MIN_CONNECTIONS:
            raise ConfigurationError(
                f"max_connections={limit}: write {MIN_CONNECTIONS} or more; a "
                "process uses a few for each event loop, however many requests it serves"
            )
        if self.starts_server:
            return
        loose = dict[str, None]()
        for pool in _with_sentinels(self._pool({})):
            try:
                connection = pool.make_connection()
            except (TypeError, ValueError, errors.RedisError) as exc:
                raise ConfigurationError(
                    f"the store for {self.where} has an option that redis-py doesn't take: {exc}"
                ) from None
            if not isinstance(connection, SSLConnection):
                continue
            try:
                context: Any = cast("Any", connection).ssl_context.get()
            except (OSError, TypeError, ValueError) as exc:  # an SSLError is an OSError
                raise ConfigurationError(
                    f"the certificates and keys (ssl_…=) for {self.where} can't be used: {exc}"
                ) from exc
            loose |= dict.fromkeys(shortcomings(context))
        for told in loose:
            _logger.warning("sessions: %s", told)

    def _pool(self, more: Mapping[str, Any]) -> ConnectionPool:
        here = self.deployment
        arguments = {**_ours(self.timeout, here.arguments), **more}
        if self._greeting is not None:
            arguments["redis_connect_func"] = _and_then(
                arguments["redis_connect_func"], self._greeting
            )
        if self._watched:
            managed = Managed if here.tls else SentinelManagedConnection
            return SentinelConnectionPool(
                here.name,
                self._sentinels(),
                connection_class=managed,
                max_connections=here.max_connections,
                **arguments,
            )
        if here.hosts:
            host, port = self.address
            arguments.update(host=host, port=port)
        return ConnectionPool(own(here.connection_class), here.max_connections, **arguments)

    def _sentinels(self) -> Sentinel:
        here = self.deployment
        # In the time for one connection each of them may be asked, even if the others hang.
        patience = self.timeout / (len(here.hosts) + 1)
        arguments = _ours(patience, here.sentinel_arguments)
        arguments.update(socket_timeout=patience, socket_connect_timeout=patience)
        kind = own(here.sentinel_class)
        return _Sentinels(
            (
                Redis.from_pool(ConnectionPool(kind, **arguments, host=host, port=port))
                for host, port in here.hosts
            ),
            here.sentinel_options,
        )

    def _describe(self) -> str:
        here = self.deployment
        if self.starts_server:
            return "the embedded server"
        if "path" in here.arguments:
            return f"unix:{here.arguments['path']}"
        hosts = [shown(address) for address in here.hosts]
        database = here.arguments.get("db", 0)
        if self._watched:
            return f"{here.name} of the Sentinels {','.join(hosts)}/{database}"
        if self._address is not None:
            return f"{shown(self._address)}/{database}"
        if here.kind == "cluster":
            return f"the Cluster at {','.join(hosts)}"
        return f"{hosts[0]}/{database}"


class _Sentinels(Sentinel):
    """Asked by one task at a time. The error has each one's reason, which redis-py's hasn't."""

    def __init__(self, clients: Iterable[Redis], options: Mapping[str, Any]) -> None:
        Sentinel.__init__(self, [], **options)
        self.sentinels = list(clients)
        self._forced_ip = options.get("force_master_ip")  # Sentinel has it since 6.0
        self._asking = asyncio.Lock()

    async def discover_master(self, service_name: str) -> Any:
        async with self._asking:
            troubles: list[Exception] = []
            for number, client in enumerate(self.sentinels):
                try:
                    states: Any = await cast("Any", client).sentinel_masters()
                    state = states.get(service_name)
                    if state and self.check_master_state(state, service_name):
                        # The first to be asked, from now on.
                        self.sentinels.insert(0, self.sentinels.pop(number))
                        return self._forced_ip or state["ip"], state["port"]
                except errors.RedisError as exc:  # an answer, too: it may lack rights alone
                    troubles.append(exc)
                except (AttributeError, LookupError, TypeError, ValueError):
                    told = "what answers isn't a Sentinel, or it is going away"
                    troubles.append(errors.InvalidResponse(told))
        why = "; ".join(dict.fromkeys(map(str, troubles)))
        kind: type[errors.RedisError] = MasterNotFoundError
        if len(troubles) == len(self.sentinels):  # what waiting doesn't mend
            if all(isinstance(exc, _REFUSALS) for exc in troubles):
                kind = errors.AuthenticationError
            elif all(isinstance(exc, errors.ResponseError) for exc in troubles):
                kind = errors.ResponseError
        raise kind(f"no primary is known as {service_name!r}" + (f": {why}" if why else ""))


def _with_sentinels(pool: ConnectionPool) -> list[Any]:
    """A pool, and those of its Sentinels."""
    if not isinstance(pool, SentinelConnectionPool):
        return [pool]
    clients: list[Any] = cast("Any", pool).sentinel_manager.sentinels
    return [pool, *(client.connection_pool for client in clients)]


def shown(address: Address) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connector_of(source: str | Client, *, timeout: float | None = None) -> Connector:
    """The connector to what a URL, or a client, says; `ConfigurationError`."""
    deployment = Deployment.of(source)
    name = "timeout"
    if timeout is None and deployment.timeout is not None:
        name, timeout = "socket_timeout", deployment.timeout
    timeout = TIMEOUT if timeout is None else timeout
    check_bound(timeout, name, MAX_TIMEOUT)
    connector = Connector(deployment, timeout)
    connector.check()
    return connector


def _ours(timeout: float, given: Mapping[str, Any]) -> dict[str, Any]:
    # Batches have one deadline each, and their own retry; redis-py's are dear, or slow to fail.
    return {
        "socket_connect_timeout": timeout,
        **QUIET,
        **given,
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "retry_on_timeout": False,  # each connection would make that list longer
        "protocol": 2,
        "decode_responses": False,
        "redis_connect_func": discreet(given.get("redis_connect_func")),
    }


def _and_then(first: Greeting, second: Greeting) -> Greeting:
    async def greet(connection: Any) -> None:
        await first(connection)
        await second(connection)

    return greet


def discreet(connect: Callable[[Any], Any] | None = None) -> Greeting:
    """redis-py's `on_connect`, or a client's own, whose errors have no password.

    A server that doesn't know AUTH repeats what came with it.
    """

    async def greet(connection: Any) -> None:
        try:
            connected = connect(connection) if connect else connection.on_connect()
            if isawaitable(connected):
                await connected
        except errors.ResponseError as exc:
            told, repeated, _ = str(exc).partition(", with args beginning with")
            if not repeated:
                raise
        else:
            return
        raise errors.ResponseError(told)

    return greet

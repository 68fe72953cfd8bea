"""Pools of connections to the servers of a deployment. Each pool belongs to one event loop.

A pool is redis-py's: it opens connections, and does what belongs to that (TLS, credentials,
Sentinels, `SELECT`). What is sent over a connection is the business of `sender` and `link`.
"""

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

from redis_sessions.connect.clients import deployment_from_client
from redis_sessions.connect.deployment import Address, Client, Deployment, shown
from redis_sessions.connect.embedded import ensure_server
from redis_sessions.connect.tls import ManagedTLS, context_of, tls_class, warnings_about
from redis_sessions.connect.urls import deployment_from_url
from redis_sessions.connect.versions import QUIET
from redis_sessions.errors import ConfigurationError, check_bound

__all__ = ["MAX_TIMEOUT", "Connector", "connector_of", "deployment_of", "safe_on_connect"]

MIN_CONNECTIONS: Final = 8
TIMEOUT: Final = 2.0
MAX_TIMEOUT: Final = 2.5
"""Seconds. `stores.deadline` says what depends on it."""
_REFUSALS: Final = (errors.AuthenticationError, errors.NoPermissionError)

_logger: Final = logging.getLogger("redis_sessions")

OnConnect = Callable[[Any], Awaitable[None]]
"""Is called with each new connection of a pool, once the server has let it in."""


class Connector:
    """Opens pools to one server of a deployment. `where` names the server, without credentials.

    With an `address` it is the server there. Without one there are three cases:

    1. The deployment is one server: it is that server.
    2. There are Sentinels: it is whatever they call the primary.
    3. There are several hosts: it is the first of them.
    """

    def __init__(
        self,
        deployment: Deployment,
        timeout: float,
        address: Address | None = None,
        on_connect: OnConnect | None = None,
    ) -> None:
        self.deployment = deployment
        self.timeout = timeout
        self.asks_sentinels = deployment.kind == "sentinel" and address is None
        """Whether the Sentinels say where the server is."""
        self._address = address
        self._on_connect = on_connect
        self.where = self._describe()

    @property
    def starts_server(self) -> bool:
        """Whether `open` starts the server if it doesn't run."""
        return self.deployment.kind == "embedded"

    @property
    def address(self) -> Address:
        """The server's address, or that of the first host."""
        return self._address or self.deployment.hosts[0]

    def to(self, address: Address, on_connect: OnConnect | None = None) -> Connector:
        """A connector to another server of the deployment."""
        return Connector(self.deployment, self.timeout, address, on_connect)

    def with_on_connect(self, on_connect: OnConnect) -> Connector:
        """A connector to the same server, which calls this with each new connection."""
        return Connector(self.deployment, self.timeout, self._address, on_connect)

    async def open(self) -> ConnectionPool:
        """A pool whose connections belong to the running loop; nothing is connected yet."""
        if self.starts_server:
            path = await asyncio.to_thread(ensure_server, self.deployment.name)
            return self._pool({"path": path})
        return self._pool({})

    @staticmethod
    async def disconnect_available(pool: ConnectionPool) -> None:
        """Disconnect what isn't in use, in a pool and in those of its Sentinels.

        redis-py keeps connections whose handshake was broken off.
        """
        for each in _with_sentinels(pool):
            # All are taken out first: another task may want one while they are being closed.
            count = len(cast("list[Any]", vars(each)["_available_connections"]))
            for connection in [each.get_available_connection() for _ in range(count)]:
                await connection.disconnect(nowait=True)
                await each.release(connection)

    @staticmethod
    async def close(pool: ConnectionPool) -> None:
        """Disconnect all connections of a pool, and of those of its Sentinels."""
        for each in _with_sentinels(pool):
            with suppress(errors.TimeoutError):  # over TLS, a server that hangs doesn't answer
                await each.disconnect()

    @staticmethod
    async def has_moved(pool: ConnectionPool) -> bool:
        """Whether the Sentinels name another primary than the one that a pool led to last."""
        managed = cast("Any", pool)
        if not isinstance(pool, SentinelConnectionPool) or managed.master_address is None:
            return False
        try:
            address = await managed.sentinel_manager.discover_master(managed.service_name)
        except (errors.RedisError, AttributeError):
            # They know of no primary: no reason to leave this one. (redis-py raises the
            # AttributeError if a Sentinel goes away meanwhile.)
            return False
        return bool(address != managed.master_address)

    def check(self) -> None:
        """Raise `ConfigurationError` if redis-py, or TLS, can't work with the settings.

        Settings that make TLS weaker than usual are logged as warnings.
        """
        limit = self.deployment.max_connections
        if limit is not None and limit < MIN_CONNECTIONS:
            raise ConfigurationError(
                f"max_connections={limit}: write {MIN_CONNECTIONS} or more; a "
                "process uses a few for each event loop, however many requests it serves"
            )
        if self.starts_server:
            return
        warnings = dict[str, None]()
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
                context = context_of(connection)
            except (OSError, TypeError, ValueError) as exc:  # an SSLError is an OSError
                raise ConfigurationError(
                    f"the certificates and keys (ssl_…=) for {self.where} can't be used: {exc}"
                ) from exc
            warnings |= dict.fromkeys(warnings_about(context))
        for warning in warnings:
            _logger.warning("sessions: %s", warning)

    def _pool(self, more: Mapping[str, Any]) -> ConnectionPool:
        here = self.deployment
        arguments = {**_arguments(self.timeout, here.arguments), **more}
        if self._on_connect is not None:
            arguments["redis_connect_func"] = _one_after_the_other(
                arguments["redis_connect_func"], self._on_connect
            )
        if self.asks_sentinels:
            managed = ManagedTLS if here.tls else SentinelManagedConnection
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
        return ConnectionPool(tls_class(here.connection_class), here.max_connections, **arguments)

    def _sentinels(self) -> Sentinel:
        here = self.deployment
        # Within the time for one connection each Sentinel can be asked, even if the others hang.
        timeout = self.timeout / (len(here.hosts) + 1)
        arguments = _arguments(timeout, here.sentinel_arguments)
        arguments.update(socket_timeout=timeout, socket_connect_timeout=timeout)
        kind = tls_class(here.sentinel_class)
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
        if self.asks_sentinels:
            return f"{here.name} of the Sentinels {','.join(hosts)}/{database}"
        if self._address is not None:
            return f"{shown(self._address)}/{database}"
        if here.kind == "cluster":
            return f"the Cluster at {','.join(hosts)}"
        return f"{hosts[0]}/{database}"


class _Sentinels(Sentinel):
    """redis-py's `Sentinel` with two differences.

    1. One task at a time asks the Sentinels.
    2. The error has the reason that each of them gave.
    """

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
                        # This Sentinel is the first to be asked from now on.
                        self.sentinels.insert(0, self.sentinels.pop(number))
                        return self._forced_ip or state["ip"], state["port"]
                except errors.RedisError as exc:
                    troubles.append(exc)
                except (AttributeError, LookupError, TypeError, ValueError):
                    problem = "what answers isn't a Sentinel, or it is going away"
                    troubles.append(errors.InvalidResponse(problem))
        why = "; ".join(dict.fromkeys(map(str, troubles)))
        kind: type[errors.RedisError] = MasterNotFoundError
        # If each of them refuses, waiting doesn't help, and the error's class says so.
        if len(troubles) == len(self.sentinels):
            if all(isinstance(exc, _REFUSALS) for exc in troubles):
                kind = errors.AuthenticationError
            elif all(isinstance(exc, errors.ResponseError) for exc in troubles):
                kind = errors.ResponseError
        raise kind(f"no primary is known as {service_name!r}" + (f": {why}" if why else ""))


def _with_sentinels(pool: ConnectionPool) -> list[Any]:
    """A pool, and the pools of its Sentinels."""
    if not isinstance(pool, SentinelConnectionPool):
        return [pool]
    clients: list[Any] = cast("Any", pool).sentinel_manager.sentinels
    return [pool, *(client.connection_pool for client in clients)]


def deployment_of(source: str | Client) -> Deployment:
    """The deployment of a URL or a client; `ConfigurationError` says what to write instead."""
    if isinstance(source, str):
        return deployment_from_url(source)
    return deployment_from_client(source)


def connector_of(source: str | Client, *, timeout: float | None = None) -> Connector:
    """The connector for a URL or a client, checked; `ConfigurationError`."""
    deployment = deployment_of(source)
    name = "timeout"
    if timeout is None and deployment.timeout is not None:
        name, timeout = "socket_timeout", deployment.timeout
    timeout = TIMEOUT if timeout is None else timeout
    check_bound(timeout, name, MAX_TIMEOUT)
    connector = Connector(deployment, timeout)
    connector.check()
    return connector


def _arguments(timeout: float, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of redis-py's connections, for those that were given.

    A batch has one time-out and one retry of its own. So redis-py's are switched off: its
    time-outs cost much time, and its retries are slow to fail.
    """
    return {
        "socket_connect_timeout": timeout,
        **QUIET,
        **given,
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "retry_on_timeout": False,  # with True each connection would make that list longer
        "protocol": 2,
        "decode_responses": False,
        "redis_connect_func": safe_on_connect(given.get("redis_connect_func")),
    }


def _one_after_the_other(first: OnConnect, second: OnConnect) -> OnConnect:
    async def on_connect(connection: Any) -> None:
        await first(connection)
        await second(connection)

    return on_connect


def safe_on_connect(connect: Callable[[Any], Any] | None = None) -> OnConnect:
    """redis-py's `on_connect`, or a client's own, with errors that never have a password.

    A server that doesn't know AUTH repeats its arguments in the error.
    """

    async def on_connect(connection: Any) -> None:
        try:
            connected = connect(connection) if connect else connection.on_connect()
            if isawaitable(connected):
                await connected
        except errors.ResponseError as exc:
            message, arguments, _ = str(exc).partition(", with args beginning with")
            if not arguments:
                raise
        else:
            return
        raise errors.ResponseError(message)

    return on_connect

"""The connections of one event loop to one server: each batch has one time-out and one retry.

Errors of redis-py become errors of a store here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Sequence
from contextvars import Context
from typing import Any, Final, cast

from redis import exceptions as errors
from redis.asyncio import ConnectionPool

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.resp import UNEXPECTED_REPLY, Command, Script, pack, read_reply
from redis_sessions.connect.versions import is_clean
from redis_sessions.errors import StoreError, StoreUnavailableError

__all__ = ["CREDENTIALS", "NO_DATABASE", "Wire"]

_Closer = AsyncGenerator[None, None]

# In errors of a server that can't serve now. Other errors are refusals.
_UNAVAILABLE_WORDS: Final = (
    *("OOM", "LOADING", "BUSY", "READONLY", "MISCONF", "MASTERDOWN", "CLUSTERDOWN"),
    *("TRYAGAIN", "NOREPLICAS"),
)
_UNAVAILABLE: Final = (
    *(errors.BusyLoadingError, errors.ReadOnlyError, errors.OutOfMemoryError),
    *(errors.ClusterDownError, errors.TryAgainError),
)
_FAILURES: Final = (errors.RedisError, OSError)
"""What sending a batch raises if it fails. A `TimeoutError` is an `OSError`."""
NO_DATABASE: Final = "DB index is out of range"
CREDENTIALS: Final = ("username-password pair", "uthentication required", "without any password")
"""Words of servers about a wrong password, a missing one, and one that isn't wanted."""
MAX_KEPT: Final = 2
"""Connections that are kept for the next batch: as many as are in use at once as a rule."""
_CHECK_EVERY: Final = 1.0  # seconds
_REFUSED_WORDS: Final = (
    *("NOPERM", "NOAUTH", "WRONGPASS"),
    *("ACL failure", "can't run this command"),  # inside a script: Redis 7 and later, 6.2
)


class _Connections:
    """A pool, and those of its connections that are kept for the next batch.

    A connection is kept only if all its replies were read.
    """

    __slots__ = ("asks_sentinels", "closed", "idle", "pool", "replaced", "suspect")

    def __init__(self, pool: ConnectionPool, asks_sentinels: bool) -> None:
        self.pool = pool
        self.asks_sentinels = asks_sentinels
        self.idle: list[Any] = []
        self.closed = False
        self.replaced = False
        """Whether they were closed because the Sentinels name another primary."""
        self.suspect = False
        """Whether a kept connection failed, so that the others may fail as well."""

    async def acquire(self) -> tuple[Any, bool]:
        """A connection, and whether it is a kept one."""
        if self.closed:
            raise errors.ConnectionError("it was closed meanwhile")
        while self.idle:
            connection = self.idle.pop()
            if (
                connection.is_connected
                and not (self.asks_sentinels and self.is_elsewhere(connection))
                and await is_clean(connection)
            ):
                return connection, True
            await self.disconnect(connection)  # the server has closed it meanwhile
        try:
            return await self.pool.get_connection(), False
        except BaseException as exc:
            await self._disconnect_available()
            if isinstance(exc, _FAILURES) or not isinstance(exc, Exception):
                raise
            raise _as_redis_error(exc) from exc

    def is_elsewhere(self, connection: Any) -> bool:
        """Whether the Sentinels led a later connection to another primary than this one."""
        primary = cast("Any", self.pool).master_address
        return primary is not None and (connection.host, connection.port) != primary

    async def release(self, connection: Any) -> None:
        """Keep a connection for the next batch, or give it back to the pool."""
        if self.closed:
            await self.disconnect(connection)
        elif len(self.idle) < MAX_KEPT:
            self.idle.append(connection)
        else:
            await self.pool.release(connection)

    async def disconnect(self, connection: Any) -> None:
        """Disconnect one that is in use."""
        await connection.disconnect(nowait=True)
        await self.pool.release(connection)
        if self.closed:  # this one was in use then, and a Sentinel's connection may have been
            await Connector.close(self.pool)

    async def _disconnect_available(self) -> None:
        close = Connector.close if self.closed else Connector.disconnect_available
        await close(self.pool)

    async def disconnect_idle(self) -> None:
        """Disconnect all that aren't in use: they lead to where the one led that failed."""
        self.suspect = False
        while self.idle:
            await self.disconnect(self.idle.pop())
        await self._disconnect_available()


class Wire:
    """Sends commands to one server from one event loop. `timeout`, in seconds, bounds a batch.

    `scripts` are loaded where a server doesn't know one of them.
    """

    def __init__(self, connector: Connector, timeout: float, scripts: Sequence[Script]) -> None:
        self._connector = connector
        self._asks_sentinels = connector.asks_sentinels
        self._timeout = timeout
        self._scripts = scripts
        self._opening = asyncio.Lock()
        self._connections: _Connections | None = None
        # If a wire is collected, its connections are closed in the loop that they belong to.
        self._closers: set[_Closer] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._checked_at = float("-inf")
        self._check: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        weakref.finalize(
            self, _close_without_owner, self._closers, loop, os.getpid()
        ).atexit = False

    async def send(
        self, commands: Sequence[Command], longer: float = 0, *, resent: bool = False
    ) -> list[Any]:
        """Send commands in one piece; each one's reply, or the redis-py error that is its own.

        `longer` adds seconds to the time-out, for a command that blocks. `resent` is set where
        the commands are sent for the second time. Raises `StoreError` if all of them failed.
        """
        # The time-out doesn't count the start of an embedded server.
        connections = self._connections or await self._open()
        if self._asks_sentinels:
            self._check_primary(connections)
        seconds = self._timeout + longer
        try:
            async with asyncio.timeout(seconds):
                replies = await _exchange(connections, commands)
                for reply in replies:
                    if isinstance(reply, errors.NoScriptError):
                        load = [("SCRIPT", "LOAD", script.text) for script in self._scripts]
                        return _once_loaded(
                            len(load), await _exchange(connections, [*load, *commands])
                        )
                return replies
        except _FAILURES as exc:
            if connections.replaced and connections is not self._connections and not resent:
                return await self.send(commands, longer, resent=True)
            raise await self._translate_failure(exc, seconds) from exc

    async def send_one(self, *command: Any) -> Any:
        """One command's reply; raises `StoreError`."""
        (reply,) = await self.send([command])
        if isinstance(reply, errors.RedisError):
            raise self.translate(reply) from reply
        return reply

    async def _translate_failure(self, exc: Exception, seconds: float) -> StoreError:
        """The error of a store for a failure of all that was sent."""
        if isinstance(exc, (TimeoutError, errors.TimeoutError)):
            if self._connections is not None and self._connections.suspect:
                # The Sentinels may name another primary by now.
                await self._connections.disconnect_idle()
            where = self._connector.where
            return StoreUnavailableError(
                f"{where} didn't answer within {seconds:g} s", reason="timeout"
            )
        if self._connector.starts_server and isinstance(exc, errors.ConnectionError):
            await self.close()  # the next command starts the server again
        return self.translate(exc)

    def _check_primary(self, connections: _Connections) -> None:
        """Ask the Sentinels once a second, in the background, which server is the primary.

        A former primary that hung doesn't know yet that another one has taken its place.
        """
        now = asyncio.get_running_loop().time()
        if now - self._checked_at >= _CHECK_EVERY and (self._check is None or self._check.done()):
            self._checked_at = now
            self._check = asyncio.create_task(self._close_if_moved(connections), context=Context())

    async def _close_if_moved(self, connections: _Connections) -> None:
        if await self._connector.has_moved(connections.pool) and connections is self._connections:
            connections.replaced = True
            await self.close()

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        if self._check is not None and self._check is not asyncio.current_task():
            self._check.cancel()
            await asyncio.wait([self._check])  # it uses a connection to a Sentinel
        if self._connections is not None:
            self._connections.closed = True
            self._connections = None
        closers = list(self._closers)  # a copy: another task may open again meanwhile
        self._closers.difference_update(closers)
        for closer in closers:
            await closer.aclose()

    def translate(self, exc: Exception) -> StoreError:
        """The error of a store for an error of redis-py, which may be that of one command."""
        if isinstance(exc, errors.InvalidResponse):
            return self.unexpected_reply()
        where, text = self._connector.where, str(exc).strip().removesuffix(".")
        refused = (
            errors.AuthenticationError,
            errors.AuthorizationError,
            errors.NoPermissionError,
            errors.AuthenticationWrongNumberOfArgsError,
        )
        if isinstance(exc, refused) or any(word in text for word in _REFUSED_WORDS):
            return StoreUnavailableError(f"{where} refused: {text}", reason="refused")
        if isinstance(exc, (errors.AskError, errors.ClusterCrossSlotError)):
            # In redis-py a MovedError is a subclass of AskError.
            return StoreError(f"{where} is a node of a Cluster: write redis+cluster://…")
        if NO_DATABASE in text:
            return StoreError(
                f"{where}: the server has no database of this number: write 0, or raise "
                "`databases` in its configuration"
            )
        if isinstance(exc, _UNAVAILABLE) or any(word in text for word in _UNAVAILABLE_WORDS):
            return StoreUnavailableError(f"{where} can't serve now: {text}", reason="server")
        if isinstance(exc, errors.MaxConnectionsError):
            return StoreUnavailableError(f"max_connections is too low: {text}", reason="full")
        if isinstance(exc, (errors.ConnectionError, OSError)):
            return StoreUnavailableError(f"{where} can't be reached: {text}")
        return StoreError(f"{where} answered: {text}")

    def unexpected_reply(self) -> StoreUnavailableError:
        """The error for a reply that no Redis gives.

        Connections that aren't in use are disconnected, since they lead to the same place.
        """
        if self._connections is not None:
            closing = asyncio.ensure_future(self._connections.disconnect_idle())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return StoreUnavailableError(
            f"{self._connector.where} doesn't speak Redis's protocol: see whether something "
            "else listens at this address",
            reason="protocol",
        )

    async def _open(self) -> _Connections:
        async with self._opening:
            if self._connections is None:
                pool = await self._connector.open()
                # A loop that ends closes its async generators: so no connection outlives it.
                closer = _disconnect_with_loop(pool)
                await anext(closer)
                self._closers.add(closer)
                self._connections = _Connections(pool, self._asks_sentinels)
            return self._connections


async def _exchange(connections: _Connections, commands: Sequence[Command]) -> list[Any]:
    """Send, and read the replies. If the connection is lost, this is tried once more.

    That a server has closed a connection may show only when it is used. All commands that are sent
    here may be repeated.
    """
    data = pack(commands)
    retried = False
    while True:
        try:
            connection, kept = await connections.acquire()
            try:
                await connection.send_packed_command(data)
                replies = [await read_reply(connection) for _ in commands]
                if connections.asks_sentinels and connections.is_elsewhere(connection):
                    # The answer of a former primary doesn't count.
                    raise errors.ConnectionError("another server has become the primary")
            except BaseException:
                connections.suspect |= kept
                await connections.disconnect(connection)  # the next user would read this reply
                raise
        except errors.ConnectionError as exc:
            if connections.suspect:  # it isn't if only a new connection couldn't be opened
                await connections.disconnect_idle()
            if retried or type(exc) is not errors.ConnectionError:
                raise
            retried = True
            continue
        await connections.release(connection)
        if kept:
            connections.suspect = False
        if any(map(_is_read_only, replies)):
            await connections.disconnect_idle()  # they lead to a primary that was demoted
        return replies


def _is_read_only(reply: Any) -> bool:
    # In the error of a script, Redis 6.2 writes the number of its line first.
    return isinstance(reply, errors.ReadOnlyError) or (
        isinstance(reply, errors.ResponseError) and "READONLY" in str(reply)
    )


def _once_loaded(scripts: int, replies: list[Any]) -> list[Any]:
    """The replies without those to SCRIPT LOAD.

    If a script is still missing, the reply is the error of SCRIPT LOAD.
    """
    why = next((r for r in replies[:scripts] if isinstance(r, errors.RedisError)), None)
    rest = replies[scripts:]
    return [why if why and isinstance(r, errors.NoScriptError) else r for r in rest]


def _as_redis_error(exc: Exception) -> Exception:
    if isinstance(exc, _FAILURES):
        return exc
    # redis-py raises an AttributeError if a Sentinel goes away meanwhile.
    if isinstance(exc, UNEXPECTED_REPLY) and not isinstance(exc, AttributeError):
        return errors.InvalidResponse(str(exc))
    return errors.ConnectionError(f"{type(exc).__name__}: {exc}")


def _close_without_owner(closers: set[_Closer], loop: asyncio.AbstractEventLoop, pid: int) -> None:
    if pid == os.getpid() and not loop.is_closed():
        for closer in closers:
            loop.call_soon_threadsafe(asyncio.ensure_future, closer.aclose())


async def _disconnect_with_loop(pool: ConnectionPool) -> _Closer:
    try:
        yield
    finally:
        await Connector.close(pool)

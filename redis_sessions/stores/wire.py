"""Connections to one Redis: one pool an event loop, one deadline, one retry, one translation."""

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
from redis_sessions.connect.versions import is_clean
from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.stores.commands import NONSENSE, Command, Script, packed, reply_of

__all__ = ["CREDENTIALS", "NO_DATABASE", "Script", "Wire"]

_Closer = AsyncGenerator[None, None]

# What a server that is there says when it can't serve now; anything else is a refusal.
_NOT_NOW: Final = (
    *("OOM", "LOADING", "BUSY", "READONLY", "MISCONF", "MASTERDOWN", "CLUSTERDOWN"),
    *("TRYAGAIN", "NOREPLICAS"),
)
_SOON: Final = (
    *(errors.BusyLoadingError, errors.ReadOnlyError, errors.OutOfMemoryError),
    *(errors.ClusterDownError, errors.TryAgainError),
)
_MISFORTUNES: Final = (errors.RedisError, OSError)  # a TimeoutError is one
NO_DATABASE: Final = "DB index is out of range"
CREDENTIALS: Final = ("username-password pair", "uthentication required", "without any password")
"""In what servers say of a wrong password, of none, and of one that isn't wanted."""
HELD: Final = 2
_LOOK_EVERY: Final = 1.0  # seconds
_RIGHTS: Final = (
    *("NOPERM", "NOAUTH", "WRONGPASS"),
    *("ACL failure", "can't run this command"),  # inside a script: Redis 7 and later, 6.2
)


class _Line:
    """A pool, and those of its connections that wait for the next batch, their replies read."""

    __slots__ = ("closed", "deposed", "idle", "pool", "suspect", "watched")

    def __init__(self, pool: ConnectionPool, watched: bool) -> None:
        self.pool = pool
        self.watched = watched
        self.idle: list[Any] = []
        self.closed = False
        self.deposed = False  # it was closed because its server is the primary no more
        self.suspect = False  # one that was held was of no use, and the others may be no better

    async def take(self) -> tuple[Any, bool]:
        """A connection that is held, if it is clean and open, and True; else a new one."""
        if self.closed:
            raise errors.ConnectionError("it was closed meanwhile")
        while self.idle:
            connection = self.idle.pop()
            if (
                connection.is_connected
                and not (self.watched and self.is_elsewhere(connection))
                and await is_clean(connection)
            ):
                return connection, True
            await self.drop(connection)  # the server has closed it meanwhile
        try:
            return await self.pool.get_connection(), False
        except BaseException as exc:
            await self._tidy()
            if isinstance(exc, _MISFORTUNES) or not isinstance(exc, Exception):
                raise
            raise _misfortune(exc) from exc

    def is_elsewhere(self, connection: Any) -> bool:
        """Whether another one, opened since, was led to another primary."""
        primary = cast("Any", self.pool).master_address
        return primary is not None and (connection.host, connection.port) != primary

    async def give_back(self, connection: Any) -> None:
        """Hold it for the next batch; a few, as many as are under way at once as a rule."""
        if self.closed:
            await self.drop(connection)
        elif len(self.idle) < HELD:
            self.idle.append(connection)
        else:
            await self.pool.release(connection)

    async def drop(self, connection: Any) -> None:
        await connection.disconnect(nowait=True)
        await self.pool.release(connection)
        if self.closed:  # while this one was in use, and perhaps Sentinels were asked for it
            await Connector.close(self.pool)

    async def _tidy(self) -> None:
        await (Connector.close if self.closed else Connector.tidy)(self.pool)

    async def drop_idle(self) -> None:
        """Those that are held, and those in the pool: they lead to where the bad one did."""
        self.suspect = False
        while self.idle:
            await self.drop(self.idle.pop())
        await self._tidy()


class Wire:
    """Sends commands to one Redis from one event loop. `timeout`, in seconds, bounds a batch."""

    def __init__(self, connector: Connector, timeout: float, scripts: Sequence[Script]) -> None:
        self._connector = connector
        self._watched = connector.watched
        self._timeout = timeout
        self._scripts = scripts
        self._opening = asyncio.Lock()
        self._line: _Line | None = None
        # Whose wire nobody holds any more, its connections are closed where their loop runs.
        self._closers: set[_Closer] = set()
        self._leaving: set[asyncio.Future[None]] = set()
        self._looked = float("-inf")
        self._look: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        weakref.finalize(self, _close_all, self._closers, loop, os.getpid()).atexit = False

    async def send(
        self, commands: Sequence[Command], longer: float = 0, *, resent: bool = False
    ) -> list[Any]:
        """Each command's reply, or the redis-py error that is its own; they leave together.

        `longer`: seconds that one of them takes by its nature. Raises `StoreError` for what
        befalls all of them.
        """
        # Opening may start a server, which takes its own time.
        line = self._line or await self._open()
        if self._watched:
            self._look_around(line)
        seconds = self._timeout + longer
        try:
            async with asyncio.timeout(seconds):
                replies = await _exchange(line, commands)
                for reply in replies:
                    if isinstance(reply, errors.NoScriptError):
                        load = [("SCRIPT", "LOAD", script.text) for script in self._scripts]
                        return _once_loaded(len(load), await _exchange(line, [*load, *commands]))
                return replies
        except _MISFORTUNES as exc:
            if line.deposed and line is not self._line and not resent:
                return await self.send(commands, longer, resent=True)
            raise await self._befallen(exc, seconds) from exc

    async def send_one(self, *command: Any) -> Any:
        """One command's reply; raises `StoreError`."""
        (reply,) = await self.send([command])
        if isinstance(reply, errors.RedisError):
            raise self.translated(reply) from reply
        return reply

    async def _befallen(self, exc: Exception, seconds: float) -> StoreError:
        """What befell all that was sent, for those who use a store."""
        if isinstance(exc, (TimeoutError, errors.TimeoutError)):
            if self._line is not None and self._line.suspect:
                await self._line.drop_idle()  # the Sentinels may know of another primary by now
            where = self._connector.where
            return StoreUnavailableError(
                f"{where} didn't answer within {seconds:g} s", reason="timeout"
            )
        if self._connector.starts_server and isinstance(exc, errors.ConnectionError):
            await self.close()  # to open is to start it again
        return self.translated(exc)

    def _look_around(self, line: _Line) -> None:
        """Ask the Sentinels now and then: a primary that hung may not know that it was deposed."""
        now = asyncio.get_running_loop().time()
        if now - self._looked >= _LOOK_EVERY and (self._look is None or self._look.done()):
            self._looked = now
            self._look = asyncio.create_task(self._leave_if_moved(line), context=Context())

    async def _leave_if_moved(self, line: _Line) -> None:
        if await self._connector.has_moved(line.pool) and line is self._line:
            line.deposed = True
            await self.close()

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        if self._look is not None and self._look is not asyncio.current_task():
            self._look.cancel()
            await asyncio.wait([self._look])  # it holds a connection to a Sentinel
        if self._line is not None:
            self._line.closed = True
            self._line = None
        closers = list(self._closers)  # and not those of whoever opens again meanwhile
        self._closers.difference_update(closers)
        for closer in closers:
            await closer.aclose()

    def translated(self, exc: Exception) -> StoreError:
        """What an error of redis-py, or of a script's item, is for those who use a store."""
        if isinstance(exc, errors.InvalidResponse):
            return self.nonsense()
        where, text = self._connector.where, str(exc).strip().removesuffix(".")
        refused = (
            errors.AuthenticationError,
            errors.AuthorizationError,
            errors.NoPermissionError,
            errors.AuthenticationWrongNumberOfArgsError,
        )
        if isinstance(exc, refused) or any(word in text for word in _RIGHTS):
            return StoreUnavailableError(f"{where} refused: {text}", reason="refused")
        if isinstance(exc, (errors.AskError, errors.ClusterCrossSlotError)):  # MOVED is an ASK
            return StoreError(f"{where} is a node of a Cluster: write redis+cluster://…")
        if NO_DATABASE in text:
            return StoreError(
                f"{where}: the server has no database of this number: write 0, or raise "
                "`databases` in its configuration"
            )
        if isinstance(exc, _SOON) or any(word in text for word in _NOT_NOW):
            return StoreUnavailableError(f"{where} can't serve now: {text}", reason="server")
        if isinstance(exc, errors.MaxConnectionsError):
            return StoreUnavailableError(f"max_connections is too low: {text}", reason="full")
        if isinstance(exc, (errors.ConnectionError, OSError)):
            return StoreUnavailableError(f"{where} can't be reached: {text}")
        return StoreError(f"{where} answered: {text}")

    def nonsense(self) -> StoreUnavailableError:
        """What a reply is that no Redis gives. The connections to whatever gave it are left."""
        if self._line is not None:
            leaving = asyncio.ensure_future(self._line.drop_idle())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        return StoreUnavailableError(
            f"{self._connector.where} doesn't speak Redis's protocol: see whether something "
            "else listens at this address",
            reason="protocol",
        )

    async def _open(self) -> _Line:
        async with self._opening:
            if self._line is None:
                pool = await self._connector.open()
                # A loop that ends closes its async generators: so no connection outlives it.
                closer = _disconnect_at_the_end(pool)
                await anext(closer)
                self._closers.add(closer)
                self._line = _Line(pool, self._watched)
            return self._line


async def _exchange(line: _Line, commands: Sequence[Command]) -> list[Any]:
    """Send, and read the replies; at most one retry.

    A connection that the server closed meanwhile may show only in use, and everything that is
    sent here may be repeated.
    """
    data = packed(commands)
    retried = False
    while True:
        try:
            connection, held = await line.take()
            try:
                await connection.send_packed_command(data)
                replies = [await reply_of(connection) for _ in commands]
                if line.watched and line.is_elsewhere(connection):  # don't believe it
                    raise errors.ConnectionError("another server has become the primary")
            except BaseException:
                line.suspect |= held
                await line.drop(connection)  # a reply may come that nobody reads
                raise
        except errors.ConnectionError as exc:
            if line.suspect:  # and not where only a new one couldn't be opened
                await line.drop_idle()
            if retried or type(exc) is not errors.ConnectionError:
                raise
            retried = True
            continue
        await line.give_back(connection)
        if held:
            line.suspect = False
        if any(map(_is_read_only, replies)):
            await line.drop_idle()  # they lead to a primary that was demoted
        return replies


def _is_read_only(reply: Any) -> bool:
    # Redis 6.2 puts a script's line before what befell it.
    return isinstance(reply, errors.ReadOnlyError) or (
        isinstance(reply, errors.ResponseError) and "READONLY" in str(reply)
    )


def _once_loaded(scripts: int, replies: list[Any]) -> list[Any]:
    """The replies after those to SCRIPT LOAD; where a script is missing still, they say why."""
    why = next((r for r in replies[:scripts] if isinstance(r, errors.RedisError)), None)
    rest = replies[scripts:]
    return [why if why and isinstance(r, errors.NoScriptError) else r for r in rest]


def _misfortune(exc: Exception) -> Exception:
    if isinstance(exc, _MISFORTUNES):
        return exc
    # Seen of redis-py's, where a Sentinel goes away meanwhile: an AttributeError.
    if isinstance(exc, NONSENSE) and not isinstance(exc, AttributeError):
        return errors.InvalidResponse(str(exc))
    return errors.ConnectionError(f"{type(exc).__name__}: {exc}")


def _close_all(closers: set[_Closer], loop: asyncio.AbstractEventLoop, pid: int) -> None:
    if pid == os.getpid() and not loop.is_closed():
        for closer in closers:
            loop.call_soon_threadsafe(asyncio.ensure_future, closer.aclose())


async def _disconnect_at_the_end(pool: ConnectionPool) -> _Closer:
    try:
        yield
    finally:
        await Connector.close(pool)

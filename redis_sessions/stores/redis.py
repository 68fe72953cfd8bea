"""Records in Redis: loads share an MGET, commits and ends share an EVALSHA."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from secrets import token_urlsafe
from typing import Any, Final, cast

import hiredis
from redis import exceptions as errors
from redis.asyncio import ConnectionPool, Redis

from redis_sessions.connect import Connector
from redis_sessions.errors import (
    ConfigurationError,
    StoreError,
    StoreUnavailableError,
    check_bound,
)
from redis_sessions.events import logger
from redis_sessions.record import tombstone
from redis_sessions.stores.coalescing import Batcher, Health
from redis_sessions.stores.protocols import Commit, checked_prefix

__all__ = ["RedisStore"]

_SCRIPT: Final = (files("redis_sessions.stores") / "commit.lua").read_bytes()
_SHA: Final = sha1(_SCRIPT, usedforsecurity=False).hexdigest()
MAX_TIMEOUT: Final = 2.5  # twice it, and a manager's deadline, are half a tombstone's life
_END: Final = b"*"
_ABSENT: Final = b""

# Its stub says one argument.
_pack: Final = cast("Callable[[tuple[Any, ...]], bytes]", getattr(hiredis, "pack_command"))  # noqa: B009

# What a server that is there says when it can't serve now; anything else is a refusal.
_NOT_NOW: Final = (
    *("OOM", "LOADING", "BUSY", "READONLY", "MISCONF", "MASTERDOWN", "CLUSTERDOWN"),
    *("TRYAGAIN", "NOREPLICAS"),
)
_RIGHTS: Final = (
    *("NOPERM", "NOAUTH", "WRONGPASS"),
    *("ACL failure", "can't run this command"),  # inside a script: Redis 7 and later, 6.2
)


_Closer = AsyncGenerator[None, None]


@dataclass(frozen=True, slots=True)
class _Write:
    """One item of the commit script."""

    key: str
    expected: bytes
    value: bytes
    ttl: int


@dataclass(slots=True)
class _Channel:
    """What one event loop of one process holds open: connections belong to both."""

    loop: asyncio.AbstractEventLoop
    pid: int
    loads: Batcher[str, bytes | None]
    writes: Batcher[_Write, int]
    opening: asyncio.Lock
    pool: ConnectionPool | None = None
    closer: _Closer | None = None


# A forked child must not touch its parent's sockets, not even by letting them be collected.
_inherited: list[_Channel] = []


class RedisStore:
    """Sealed records in one Redis server (or Valkey, 6.2 and later).

    `url_or_client`: `redis://`, `rediss://`, `unix://` with redis-py's query options,
    `embedded://`, or a `redis.asyncio.Redis`, whose settings are used for connections of the
    store's own. `timeout`, in seconds, bounds connecting, each batch of
    commands, and the wait for a batch.
    """

    def __init__(
        self, url_or_client: str | Redis, *, prefix: str = "session:", timeout: float = 2.0
    ) -> None:
        check_bound(timeout, "timeout", MAX_TIMEOUT)
        self.prefix = checked_prefix(prefix)
        self.timeout = timeout
        self._connector = Connector(url_or_client, timeout=timeout)
        self._channels: dict[asyncio.AbstractEventLoop, _Channel] = {}
        self._last: _Channel | None = None
        self._warned = False
        # A store that nobody holds any more closes its connections, where their loops run.
        self._closers: dict[_Closer, asyncio.AbstractEventLoop] = {}
        weakref.finalize(self, _close_all, self._closers, os.getpid()).atexit = False

    async def load(self, id: str) -> bytes | None:
        return await self._channel().loads.submit(self.prefix + id, 64)

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        write = _Write(self.prefix + id, _ABSENT if expected is None else expected, value, ttl)
        return Commit(await self._channel().writes.submit(write, len(value) + 128))

    async def end(self, id: str, tombstone: bytes, ttl: int) -> bool:
        write = _Write(self.prefix + id, _END, tombstone, ttl)
        return await self._channel().writes.submit(write, 256) == 1

    async def connect(self) -> None:
        """Write and read once; `ConfigurationError` if credentials or rights don't suffice."""
        try:
            probe = tombstone(0)
            id = f"connect:{token_urlsafe(12)}"
            await self.commit(id, None, probe, 1000)
            await self.load(id)
        except StoreUnavailableError as exc:
            if exc.reason != "refused":
                raise
            raise ConfigurationError(f"{exc}; give the user the rights it needs") from exc
        except StoreError as exc:
            raise ConfigurationError(str(exc)) from exc
        await self._warn_of_eviction(self._channel())

    async def close(self) -> None:
        """Close the running loop's connections."""
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is None:
            return
        if self._last is channel:
            self._last = None
        if channel.pid == os.getpid():
            await self._disconnect(channel)
        else:
            _inherited.append(channel)

    def __repr__(self) -> str:
        return f"<RedisStore {self._connector.where} prefix={self.prefix!r}>"

    # -- connections

    def _channel(self) -> _Channel:
        loop = asyncio.get_running_loop()
        channel = self._last
        if channel is not None and channel.loop is loop and channel.pid == os.getpid():
            return channel
        return self._find_channel(loop)

    def _find_channel(self, loop: asyncio.AbstractEventLoop) -> _Channel:
        pid = os.getpid()
        for known, channel in list(self._channels.items()):
            if channel.pid != pid:
                _inherited.append(channel)
                self._channels.pop(known, None)
            elif known.is_closed():
                self._channels.pop(known, None)
                if channel.closer is not None:
                    self._closers.pop(channel.closer, None)
        found = self._channels.get(loop)
        if found is None:
            found = self._new_channel(loop, pid)
            self._channels[loop] = found
        self._last = found
        return found

    def _new_channel(self, loop: asyncio.AbstractEventLoop, pid: int) -> _Channel:
        health = Health()
        channel = _Channel(
            loop,
            pid,
            Batcher(lambda ids: self._load(channel, ids), health, self.timeout),
            Batcher(lambda writes: self._write(channel, writes), health, self.timeout),
            asyncio.Lock(),
        )
        return channel

    async def _open(self, channel: _Channel) -> ConnectionPool:
        async with channel.opening:
            if channel.pool is None:
                pool = await self._connector.open()
                # A loop that ends closes its async generators: so no connection outlives it.
                channel.closer = _disconnect_at_the_end(pool)
                await anext(channel.closer)
                self._closers[channel.closer] = channel.loop
                channel.pool = pool
            return channel.pool

    async def _send(self, channel: _Channel, *command: Any) -> Any:
        """One command's reply; one deadline, and one place where errors are translated."""
        # Opening may start a server, which takes its own time.
        pool = channel.pool or await self._open(channel)
        try:
            async with asyncio.timeout(self.timeout):
                try:
                    return await self._exchange(pool, _pack(command))
                except errors.NoScriptError:
                    return await self._exchange(pool, _pack(("EVAL", _SCRIPT, *command[2:])))
        except (TimeoutError, errors.TimeoutError) as exc:
            raise StoreUnavailableError(
                f"{self._connector.where} didn't answer within {self.timeout:g} s",
                reason="timeout",
            ) from exc
        except (errors.RedisError, OSError) as exc:
            if self._connector.starts_server and isinstance(exc, errors.ConnectionError):
                await self._disconnect(channel)  # to open is to start it again
            raise self._translated(exc) from exc

    async def _exchange(self, pool: ConnectionPool, packed: bytes) -> Any:
        """Send, and read one reply; at most one retry.

        A connection that the server closed meanwhile shows only in use, and everything that is
        sent here may be repeated.
        """
        retried = False
        while True:
            try:
                connection = await pool.get_connection()
                try:
                    await connection.send_packed_command(packed)
                    return cast("Any", await connection.read_response())
                except errors.ReadOnlyError:
                    await connection.disconnect()  # of a primary that was demoted
                    raise
                finally:
                    await pool.release(connection)
            except errors.ConnectionError as exc:
                if retried or type(exc) is not errors.ConnectionError:
                    raise
                retried = True

    async def _disconnect(self, channel: _Channel) -> None:
        closer, channel.closer, channel.pool = channel.closer, None, None
        if closer is not None:
            self._closers.pop(closer, None)
            await closer.aclose()

    def _translated(self, exc: Exception) -> StoreError:
        where, text = self._connector.where, str(exc)
        refused = (
            errors.AuthenticationError,
            errors.AuthorizationError,
            errors.NoPermissionError,
            errors.AuthenticationWrongNumberOfArgsError,
        )
        if isinstance(exc, refused) or any(word in text for word in _RIGHTS):
            return StoreUnavailableError(f"{where} refused: {text}", reason="refused")
        not_now = (errors.BusyLoadingError, errors.ReadOnlyError, errors.OutOfMemoryError)
        if isinstance(exc, not_now) or any(word in text for word in _NOT_NOW):
            return StoreUnavailableError(f"{where} can't serve now: {text}", reason="server")
        if isinstance(exc, errors.MaxConnectionsError):
            return StoreUnavailableError(f"max_connections is too low: {text}", reason="full")
        if isinstance(exc, (errors.ConnectionError, OSError)):
            return StoreUnavailableError(f"{where} can't be reached: {text}")
        return StoreError(f"{where} answered: {text}")

    # -- batches

    async def _load(self, channel: _Channel, keys: Sequence[str]) -> list[bytes | None]:
        unique = list(dict.fromkeys(keys))
        values = await self._send(channel, "MGET", *unique)
        found: dict[str, bytes | None] = dict(zip(unique, values, strict=True))
        return [found[key] for key in keys]

    async def _write(self, channel: _Channel, writes: Sequence[_Write]) -> list[int | Exception]:
        arguments: list[Any] = [len(writes), *(write.key for write in writes)]
        for write in writes:
            arguments += (write.expected, write.value, write.ttl)
        answers = await self._send(channel, "EVALSHA", _SHA, *arguments)
        return [answer if isinstance(answer, int) else self._refusal(answer) for answer in answers]

    def _refusal(self, answer: bytes) -> StoreError:
        return self._translated(errors.ResponseError(answer.decode(errors="replace")))

    async def _warn_of_eviction(self, channel: _Channel) -> None:
        try:
            reply = await self._send(channel, "INFO", "memory")
        except StoreError:
            return  # a user that may not ask needn't be told
        lines = cast("bytes", reply).decode(errors="replace").splitlines()
        info = dict(line.split(":", 1) for line in lines if ":" in line)
        policy = info.get("maxmemory_policy", "noeviction")
        evicts = policy != "noeviction" and info.get("maxmemory", "0") != "0"
        if evicts and not self._warned:
            self._warned = True
            logger.warning(
                "%s may evict sessions when memory is short (maxmemory-policy %s): users would be "
                "signed out. Set `maxmemory-policy noeviction` on a server that holds sessions",
                self._connector.where,
                policy,
            )


def _close_all(closers: dict[_Closer, asyncio.AbstractEventLoop], pid: int) -> None:
    for closer, loop in closers.items():
        if pid == os.getpid() and not loop.is_closed():
            loop.call_soon_threadsafe(asyncio.ensure_future, closer.aclose())


async def _disconnect_at_the_end(pool: ConnectionPool) -> _Closer:
    try:
        yield
    finally:
        await pool.disconnect()

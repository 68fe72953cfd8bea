"""Records and indexes in Redis: what arrives together leaves together, in few commands."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import Any, Final, NamedTuple, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from redis_sessions.connect import Connector
from redis_sessions.errors import (
    ConfigurationError,
    SessionConflictError,
    StoreError,
    StoreUnavailableError,
    check_bound,
)
from redis_sessions.events import logger
from redis_sessions.record import tombstone
from redis_sessions.stores.coalescing import Batcher, Health
from redis_sessions.stores.protocols import Commit, Entered, Entry, Seat, checked_prefix
from redis_sessions.stores.wire import Command, PerLoop, Script, Wire
from redis_sessions.token import is_id

__all__ = ["RedisStore"]

MAX_TIMEOUT: Final = 2.5  # twice it, and a manager's deadline, are half a tombstone's life

_COMMIT: Final = Script("commit.lua")
_INDEX: Final = Script("index.lua")
_LIVE: Final = re.compile(rb"L (\d{1,15}) (\d{1,15}) (\d{1,15}) ")
_END: Final = b"*"
_ABSENT: Final = b""


class _Write(NamedTuple):
    """One item of the commit script."""

    key: str
    expected: bytes
    value: bytes
    ttl: int


@dataclass(slots=True)
class _Channel:
    """What one event loop has: a wire, and the queues before it."""

    wire: Wire
    loads: Batcher[str, bytes | None]
    writes: Batcher[_Write, int]
    questions: Batcher[Command, Any]
    record_size: int = 512
    """Bytes of a record, as they were lately: how many fit into a batch."""


class RedisStore:
    """Sealed records and indexes in one Redis server (or Valkey, 6.2 and later).

    `url_or_client`: `redis://`, `rediss://`, `unix://` with redis-py's query options,
    `embedded://`, or a `redis.asyncio.Redis`, whose settings are used for connections of the
    store's own. `timeout`, in seconds, bounds connecting, each batch of commands, and the wait
    for a batch.
    """

    def __init__(
        self, url_or_client: str | Redis, *, prefix: str = "session:", timeout: float = 2.0
    ) -> None:
        check_bound(timeout, "timeout", MAX_TIMEOUT)
        self.prefix = checked_prefix(prefix)
        self.timeout = timeout
        self._connector = Connector(url_or_client, timeout=timeout)
        self._channels = PerLoop(self._new_channel)
        self._warned = False

    # -- records

    def load(self, id: str) -> Awaitable[bytes | None]:
        channel = self._channels.get()
        return channel.loads.ask(self.prefix + id, channel.record_size)

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        write = _Write(self.prefix + id, _ABSENT if expected is None else expected, value, ttl)
        answer = await self._channels.get().writes.submit(write, len(value) + 128)
        return Commit.STORED if answer == 1 else Commit(answer)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> bool:
        write = _Write(self.prefix + id, _END, tombstone, ttl)
        return await self._channels.get().writes.submit(write, 256) == 1

    @asynccontextmanager
    async def lock(self, id: str, *, wait: float, hold: float) -> AsyncGenerator[None, None]:
        wire, name = self._channels.get().wire, f"{self.prefix}lock:{id}"
        async with wire.lock(name, wait=wait, hold=hold) as taken:
            if not taken:
                raise SessionConflictError(f"the session was locked for {wait:g} s")
            yield

    # -- indexes

    async def enter(
        self, key: str, id: str, *, age: int, own: int, ttl: int, descriptor: bytes
    ) -> Entered:
        seat, *rest = await self._ask(key, "enter", id, age, own, ttl, descriptor)
        return Entered(Seat(seat.decode()), *map(int, rest))

    async def touch(
        self,
        key: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        vouched: bool = False,
        overtaken: bool = False,
        age: int | None = None,
    ) -> tuple[Seat, int]:
        flags = (int(vouched), int(overtaken), -1 if age is None else age)
        seat, at = await self._ask(key, "touch", id, authenticated, ttl, descriptor, *flags)
        return Seat(seat.decode()), int(at)

    async def mark(self, key: str, id: str, *, ttl: int) -> bool:
        return bool(await self._ask(key, "end", id, ttl))

    async def end_all(
        self, key: str, *, keep: str | None, memory: int
    ) -> tuple[int, Sequence[str], Sequence[str]]:
        at, ended, again = await self._ask(key, "end_all", keep or "", memory)
        return int(at), _ids(ended), _ids(again)

    async def entries(self, key: str) -> Sequence[Entry]:
        fields = await self._question("HGETALL", self._index_key(key))
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return [entry for pair in pairs if (entry := _entry(*pair)) is not None]

    async def _ask(self, key: str, *arguments: Any) -> Any:
        return await self._question(*_INDEX.call([self._index_key(key)], arguments))

    async def _question(self, *command: Any) -> Any:
        return await self._channels.get().questions.submit(command, 512)

    def _index_key(self, key: str) -> str:
        return f"{self.prefix}of:{key}"

    # -- the connection

    async def connect(self) -> None:
        """Write and read once; `ConfigurationError` if credentials or rights don't suffice."""
        try:
            id = f"connect:{token_urlsafe(12)}"
            await self.commit(id, None, tombstone(0), 1000)
            await self.load(id)
            await self.mark(id, id, ttl=1000)
        except StoreUnavailableError as exc:
            if exc.reason != "refused":
                raise
            raise ConfigurationError(f"{exc}; give the user the rights it needs") from exc
        except StoreError as exc:
            raise ConfigurationError(str(exc)) from exc
        await self._warn_of_eviction()

    async def close(self) -> None:
        """Close the running loop's connections."""
        channel = self._channels.pop()
        if channel is not None:
            await channel.wire.close()

    def __repr__(self) -> str:
        return f"<RedisStore {self._connector.where} prefix={self.prefix!r}>"

    def _new_channel(self) -> _Channel:
        wire, health = Wire(self._connector, self.timeout, [_COMMIT, _INDEX]), Health()

        async def load(keys: Sequence[str]) -> Sequence[bytes | None]:
            unique = list(dict.fromkeys(keys))
            values = await wire.send_one("MGET", *unique)
            channel.record_size = sum(len(v or b"") for v in values) // len(unique) + 64
            if len(unique) == len(keys):
                return cast("list[bytes | None]", values)
            found: dict[str, bytes | None] = dict(zip(unique, values, strict=True))
            return [found[key] for key in keys]

        async def write(writes: Sequence[_Write]) -> list[int | Exception]:
            items = [part for w in writes for part in (w.expected, w.value, w.ttl)]
            answers = await wire.send_one(*_COMMIT.call([w.key for w in writes], items))
            return [a if isinstance(a, int) else wire.translated(_error(a)) for a in answers]

        async def ask(commands: Sequence[Command]) -> list[Any]:
            replies = await wire.send(commands)
            return [wire.translated(r) if isinstance(r, RedisError) else r for r in replies]

        channel = _Channel(
            wire,
            Batcher(load, health, self.timeout),
            Batcher(write, health, self.timeout),
            Batcher(ask, health, self.timeout),
        )
        return channel

    async def _warn_of_eviction(self) -> None:
        try:
            reply = await self._question("INFO", "memory")
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


def _error(answer: bytes) -> ResponseError:
    return ResponseError(answer.decode(errors="replace"))


def _entry(id: bytes, value: bytes) -> Entry | None:
    form = _LIVE.match(value)
    if form is None or not _ids([id]):
        return None  # an ended one, or a field that isn't ours
    authenticated, seen, expires = map(int, form.groups())
    return Entry(id.decode(), authenticated, seen, expires, value[form.end() :])


def _ids(fields: Sequence[bytes]) -> list[str]:
    return [text for text in (field.decode("latin-1") for field in fields) if is_id(text)]

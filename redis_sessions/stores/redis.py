"""Records and indexes in Redis: what arrives together leaves together, in few commands."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import wraps
from math import inf
from typing import Any, Final, TypeVar

from redis.asyncio import Redis, RedisCluster

from redis_sessions.connect.connector import connector_of
from redis_sessions.errors import (
    ConfigurationError,
    ReplicationError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.events import logger
from redis_sessions.session.record import tombstone
from redis_sessions.session.token import is_id
from redis_sessions.stores.channel import Channel
from redis_sessions.stores.clock import ServerClock
from redis_sessions.stores.cluster import Cluster
from redis_sessions.stores.commands import ABSENT, END, NONSENSE, Question, Script, Weight, Write
from redis_sessions.stores.durability import OnTooFew, WaitFor, durability
from redis_sessions.stores.locks import Locks
from redis_sessions.stores.loops import PerLoop
from redis_sessions.stores.protocols import (
    Commit,
    Entered,
    Entry,
    EntryStatus,
    Touched,
    checked_prefix,
)
from redis_sessions.stores.shortfall import Shortfall
from redis_sessions.stores.wire import CREDENTIALS
from redis_sessions.tracebacks import stripped

__all__ = ["RedisStore"]

T = TypeVar("T")

_INDEX: Final = Script("index.lua")
_LOCK: Final = Script("lock.lua")
_LIVE: Final = re.compile(rb"L (\d{1,15}) (\d{1,15}\.?\d{0,3}) (\d{1,15}) ")
_STATUSES: Final = {status.value.encode(): status for status in EntryStatus}

_PAGE: Final = 500
"""Entries that one command looks at."""
_KEY_ID: Final = re.compile(rb"[0-9a-f]{8}\Z")
_SECONDS: Final = re.compile(rb"\d{1,12}\Z")
_MOST_KEYS: Final = 32
_DAY: Final = 24 * 3600


class RedisStore:
    """Sealed records and indexes in Redis (or Valkey, 6.2 and later), however it is deployed.

    `url_or_client`: `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://`
    with options of their own, `embedded://`; or a redis-py asyncio client, whose settings are
    used for connections of the store's own. `timeout`, in seconds (the URL's `socket_timeout`,
    else 2), bounds connecting, each batch of commands, and the wait for a batch.

    `wait_replicas`: a sign-in, rotation, sign-out or revocation (with `wait_for="all"` every
    write) is answered once so many replicas have it, or after `wait_timeout` seconds with
    `ReplicationError`, or a warning in the log.
    """

    @stripped
    def __init__(
        self,
        url_or_client: str | Redis | RedisCluster,
        *,
        prefix: str = "session:",
        timeout: float | None = None,
        wait_replicas: int = 0,
        wait_timeout: float = 1.0,
        wait_for: WaitFor = "lifecycle",
        on_too_few: OnTooFew = "error",
    ) -> None:
        self.prefix = checked_prefix(prefix)
        self._connector = connector_of(url_or_client, timeout=timeout)
        self.timeout = self._connector.timeout
        self._waits = durability(wait_replicas, wait_timeout, wait_for, on_too_few)
        self.server_clock = ServerClock()
        self._channels = PerLoop(self._new_channel)
        self._locks = PerLoop(self._new_locks)
        self._warned = False

    @property
    def reads_replicas(self) -> bool:
        """Whether `nearby` is of use."""
        return self._connector.deployment.reads_replicas

    # -- records

    def load(self, id: str) -> Awaitable[bytes | None]:
        return self._channels.get().loads.ask(self.prefix + id, 64)

    def nearby(self, id: str) -> Awaitable[bytes | None] | None:
        """A replica's copy, which lacks nothing from more than 5 seconds ago, or nothing.

        None if the primary must be asked, also because `replicas=read` isn't in the URL.
        """
        return self._channels.get().nearby(self.prefix + id)

    def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Awaitable[Commit]:
        write = Write(self.prefix + id, ABSENT if expected is None else expected, value, ttl)
        channel, waits = self._channels.get(), self._waits
        lane = channel.sure_writes if waits and waits.concerns(write) else channel.writes
        return lane.submit(write, len(value) + 128)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> bool:
        write = Write(self.prefix + id, END, tombstone, ttl)
        try:
            return await self._channels.get().sure_writes.submit(write, 256) is Commit.STORED
        except ReplicationError as exc:
            exc.result = exc.result is Commit.STORED
            raise

    def lock(self, id: str, *, wait: float, hold: float) -> AbstractAsyncContextManager[None]:
        return self._locks.get().lock(f"{self.prefix}lock:{id}", wait=wait, hold=hold)

    # -- indexes

    async def enter(
        self, key: str, id: str, *, age: float, own: float, ttl: int, descriptor: bytes
    ) -> Entered:
        times = f"{age:.3f}", f"{own:.3f}", ttl
        return _entered(await self._write(key, "enter", id, *times, descriptor))

    async def ask(self, key: str, id: str, *, authenticated: int) -> EntryStatus:
        return _status(await self._ask("read", key, "ask", id, authenticated))

    async def touch(
        self,
        key: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        elsewhere: EntryStatus = EntryStatus.MISSING,
    ) -> Touched:
        touch = ("touch", id, authenticated, ttl, descriptor, elsewhere.value)
        try:
            return _touched(await self._ask("touch", key, *touch))
        except ReplicationError as exc:
            exc.result = _touched(exc.result)
            raise

    async def authenticated(self, key: str, id: str, *, at: int) -> None:
        await self._ask("touch", key, "authenticated", id, at)

    async def mark(self, key: str, id: str, *, ttl: int) -> bool:
        return _flag(await self._write(key, "mark", id, ttl))

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> float:
        try:
            return _moment(await self._write(key, "revoke", keep or "", memory))
        except ReplicationError as exc:
            exc.result = _moment(exc.result)
            raise

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        name = self._index_key(key)
        question = Question(name, ("HSCAN", name, cursor, "COUNT", _PAGE))
        try:
            return _entries(await self._channels.get().questions.submit(question, 512))
        except StoreError as exc:
            if "WRONGTYPE" not in str(exc):
                raise
            return 0, []  # the next write makes an index of it

    async def remove(self, key: str, ids: Sequence[str], *, until: float) -> None:
        await self._ask("touch", key, "remove", f"{until:.3f}", *ids)

    def _write(self, key: str, *arguments: Any) -> Awaitable[Any]:
        return self._ask("lifecycle", key, *arguments)

    def _ask(self, weight: Weight, key: str, *arguments: Any) -> Awaitable[Any]:
        name = self._index_key(key)
        question = Question(name, _INDEX.call([name], arguments), weight)
        channel, waits = self._channels.get(), self._waits
        lane = channel.sure_questions if waits and waits.concerns(question) else channel.questions
        return lane.submit(question, 512)

    def _index_key(self, key: str) -> str:
        return f"{self.prefix}of:{key}"

    # -- the secret keys in use

    async def key_ids(self, note: str | None = None) -> Mapping[str, float]:
        name, now = f"{self.prefix}keys", self.server_clock.now()
        if note is not None:
            await self._put(name, "HSET", note, int(now))
            await self._put(name, "PEXPIRE", _DAY * 1000)
        _, fields = await self._put(name, "HSCAN", 0, "COUNT", 2 * _MOST_KEYS)
        ages = {
            id.decode(): max(0.0, now - int(at))
            for id, at in zip(fields[::2], fields[1::2], strict=True)
            if _KEY_ID.match(id) and _SECONDS.match(at)
        }
        newest = sorted(ages, key=ages.__getitem__)[:_MOST_KEYS]
        kept = {id: ages[id] for id in newest if ages[id] <= _DAY}
        if note is not None and len(kept) < len(ages):
            await self._put(name, "HDEL", *(ages.keys() - kept.keys()))
        return kept

    def _put(self, key: str, command: str, *arguments: Any) -> Awaitable[Any]:
        question = Question(key, (command, key, *arguments))
        return self._channels.get().questions.submit(question, 512)

    # -- the connection

    async def connect(self) -> None:
        """Write and read once, on every primary; `ConfigurationError` if rights don't suffice."""
        channel = self._channels.get()
        if isinstance(channel, Channel):  # who connects is told, and needn't read it in the log
            channel.health.quiet = True
        try:
            troubles = await self._try_out()
        finally:
            if isinstance(channel, Channel):
                channel.health.quiet = False
        refused = [t for t in troubles if getattr(t, "reason", None) == "refused"]
        if refused:
            told = "; ".join(map(str, refused))
            advice = "give the user the rights it needs"
            if any(word in told for word in CREDENTIALS):
                advice = "correct the user and password in the URL"
            raise ConfigurationError(f"{told}; {advice}") from refused[0]
        for trouble in troubles:
            if isinstance(trouble, StoreUnavailableError) and trouble.reason != "protocol":
                raise trouble
            if not isinstance(trouble, ReplicationError):
                raise ConfigurationError(str(trouble)) from trouble
            logger.error("sessions: %s; the application starts all the same", trouble)
        await self._warn_of_eviction()

    async def _try_out(self) -> list[StoreError]:
        try:
            parts = await self._channels.get().tags(self.prefix)
        except StoreError as exc:
            return [exc]
        found = await asyncio.gather(*(self._try_one(f"connect:{part}") for part in parts))
        return [trouble for trouble in found if trouble is not None]

    async def _try_one(self, id: str) -> StoreError | None:
        short = Shortfall()
        try:
            await short.of(self.commit(id, None, tombstone(0), 1000))
            await self.load(id)
            await short.of(self.mark(id, id, ttl=1000))
        except StoreError as exc:
            return exc
        return short.error

    async def close(self) -> None:
        """Close the running loop's connections."""
        locks, channel = self._locks.pop(), self._channels.pop()
        if locks is not None:
            locks.leave()
        if channel is not None:
            await channel.close()

    def __repr__(self) -> str:
        return f"<RedisStore {self._connector.where} prefix={self.prefix!r}>"

    def _new_channel(self) -> Channel | Cluster:
        of = Cluster if self._connector.deployment.kind == "cluster" else Channel
        return of(self._connector, self.timeout, [_INDEX, _LOCK], self.server_clock, self._waits)

    def _new_locks(self) -> Locks:
        channel = self._channels.get()

        async def ask(name: str, value: str, milliseconds: int) -> bool:
            question = Question(name, _LOCK.call([name], (value, milliseconds)))
            return _flag(await channel.questions.submit(question, 256))

        return Locks(ask, channel.close)

    async def _warn_of_eviction(self) -> None:
        try:
            replies = await self._channels.get().info("memory")
        except StoreError:
            return  # a user that may not ask needn't be told
        for reply in replies:
            lines = reply.decode(errors="replace").splitlines()
            info = dict(line.split(":", 1) for line in lines if ":" in line)
            policy = info.get("maxmemory_policy", "noeviction")
            evicts = policy != "noeviction" and info.get("maxmemory", "0") != "0"
            if evicts and not self._warned:
                self._warned = True
                logger.warning(
                    "%s may evict sessions when memory is short (maxmemory-policy %s): users "
                    "would be signed out. Set `maxmemory-policy noeviction` on a server that "
                    "holds sessions",
                    self._connector.where,
                    policy,
                )


def _reading(read: Callable[[Any], T]) -> Callable[[Any], T]:
    """A reply's reading, which says so if the reply can't be one of Redis."""

    @wraps(read)
    def reading(reply: Any) -> T:
        try:
            return read(reply)
        except NONSENSE as exc:
            raise StoreUnavailableError(
                "the store answered what no Redis does: see whether something else listens at "
                "its address",
                reason="protocol",
            ) from exc

    return reading


@_reading
def _flag(reply: Any) -> bool:
    return {0: False, 1: True}[reply]


@_reading
def _moment(reply: Any) -> float:
    return float(reply)


@_reading
def _status(reply: Any) -> EntryStatus:
    return _STATUSES[reply]


@_reading
def _entered(reply: Any) -> Entered:
    status, at, size, since = reply
    ago = float(since)
    return Entered(_STATUSES[status], int(at), int(size), inf if ago < 0 else ago)


@_reading
def _touched(reply: Any) -> Touched:
    status, clock = reply
    return Touched(_STATUSES[status], float(clock))


@_reading
def _entries(reply: Any) -> tuple[int, list[Entry]]:
    after, fields = reply
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return int(after), [entry for pair in pairs if (entry := _entry(*pair)) is not None]


def _entry(id: bytes, value: bytes) -> Entry | None:
    form = _LIVE.match(value)
    name = id.decode("latin-1")
    if form is None or not is_id(name):
        return None  # the marks, the times, or a field that isn't ours
    authenticated, seen, expires = form.groups()
    return Entry(name, int(authenticated), float(seen), int(expires), value[form.end() :])

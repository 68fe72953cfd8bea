"""The real stores, with a back door: to see what is stored, to lose a write, to set the time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any, NamedTuple, Protocol, cast
from unittest import mock

from redis.asyncio import Redis

from redis_sessions.stores import MemoryStore, RedisStore, Store
from redis_sessions.stores import redis as redis_store
from redis_sessions.stores.wire import Script
from redis_sessions.testing import Clock
from tests.support import as_owner

__all__ = ["Backend", "MemoryBackend", "RedisBackend", "Seats", "redis_backend"]

LONG = 3_600_000


class Seats(NamedTuple):
    """What an index holds: live entries with their time, ended marks, the last revocation."""

    live: Mapping[str, int]
    ended: frozenset[str]
    revoked: float


class Backend(Protocol):
    """A real store and its back door."""

    @property
    def store(self) -> Store: ...
    @property
    def clock(self) -> Clock: ...
    async def advance(self, seconds: float) -> None:
        """Let time pass, for the managers and for the index."""
        ...

    async def raw(self, id: str) -> bytes | None:
        """What is stored under an id."""
        ...

    async def put(self, id: str, value: bytes | None) -> None:
        """Store, or delete, whatever is there."""
        ...

    async def reconnect(self) -> None:
        """Have the store say again what it must say on a new connection."""
        ...

    async def snapshot(self, key: str) -> Any:
        """An index as it is, to be put back."""
        ...

    async def restore(self, key: str, snapshot: Any) -> None:
        """Put it back."""
        ...

    async def seats(self, key: str) -> Seats:
        """What an index says."""
        ...

    async def without_ttl(self, ids: Sequence[str], keys: Sequence[str]) -> list[str]:
        """Which of these are stored for ever."""
        ...

    async def wipe(self, ids: Sequence[str], keys: Sequence[str]) -> None:
        """Delete them."""
        ...


class _OpenMemoryStore(MemoryStore):
    """The memory store with its insides in reach."""

    def peek(self, id: str) -> bytes | None:
        return self._get(id)

    def poke(self, id: str, value: bytes | None) -> None:
        self._records.pop(id, None)
        if value is not None:
            self._put(id, value, LONG)

    def take(self, key: str) -> Any:
        return deepcopy(self._indexes.get(key))

    def give(self, key: str, index: Any) -> None:
        self._indexes.pop(key, None)
        if index is not None:
            self._indexes[key] = deepcopy(index)

    def look(self, key: str) -> Seats:
        index, _ = self._index(key)
        live = {id: entry.authenticated for id, entry in index.live.items()}
        return Seats(live, frozenset(index.marks), index.revoked)

    def forget(self) -> None:
        self._records.clear()
        self._indexes.clear()


class MemoryBackend:
    """The memory store: fast."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = _OpenMemoryStore(prefix="explore:", clock=self.clock)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def raw(self, id: str) -> bytes | None:
        return self.store.peek(id)

    async def put(self, id: str, value: bytes | None) -> None:
        self.store.poke(id, value)

    async def reconnect(self) -> None:
        raise NotImplementedError("nothing fails over in memory")

    async def snapshot(self, key: str) -> Any:
        return self.store.take(key)

    async def restore(self, key: str, snapshot: Any) -> None:
        self.store.give(key, snapshot)

    async def seats(self, key: str) -> Seats:
        return self.store.look(key)

    async def without_ttl(self, ids: Sequence[str], keys: Sequence[str]) -> list[str]:
        return []

    async def wipe(self, ids: Sequence[str], keys: Sequence[str]) -> None:
        self.store.forget()


class RedisBackend:
    """A real server. Its index's clock is a key that the explorer sets; TTLs pass in real time."""

    def __init__(self, client: Redis, store: RedisStore) -> None:
        self.clock = Clock()
        self.store = store
        self._client = client

    async def set_time(self) -> None:
        """Tell the server what time it is."""
        whole = int(self.clock.now * 1000 + 0.5)
        text = f"{whole // 1000} {whole % 1000 * 1000}"
        await self._client.set(_clock_key(self.store.prefix), text, px=LONG)

    async def advance(self, seconds: float) -> None:
        if seconds >= 30:
            await self._client.delete(*[key async for key in self._tombstones()])
        self.clock.advance(seconds)
        await self.set_time()

    async def _tombstones(self) -> AsyncIterator[str]:
        yield ""
        pattern = f"{self.store.prefix}*"
        client: Any = self._client  # its stub knows no types here
        async for key in client.scan_iter(pattern, count=1000, _type="string"):
            name = cast("bytes", key).decode()
            if await self._client.strlen(name) == 33:
                yield name

    async def raw(self, id: str) -> bytes | None:
        return cast("bytes | None", await self._client.get(self.store.prefix + id))

    async def put(self, id: str, value: bytes | None) -> None:
        if value is None:
            await self._client.delete(self.store.prefix + id)
        else:
            await self._client.set(self.store.prefix + id, value, px=LONG)

    async def reconnect(self) -> None:
        """Close the store's connections, and let it open one, as after a failover."""
        await self._client.execute_command("CLIENT", "KILL", "USER", "app")  # nobody else's
        await self.store.load(".")

    async def snapshot(self, key: str) -> Any:
        return await cast("Any", self._client.hgetall(self._index(key)))

    async def restore(self, key: str, snapshot: Any) -> None:
        async with self._client.pipeline() as pipe:
            pipe.delete(self._index(key))
            if snapshot:
                pipe.hset(self._index(key), mapping=snapshot)
                pipe.pexpire(self._index(key), LONG)
            await pipe.execute()

    async def seats(self, key: str) -> Seats:
        fields = dict[bytes, bytes](await self.snapshot(key))
        revoked = float(fields.pop(b"meta", b"-1 ").split(b" ")[0])
        marks = fields.pop(b"marks", b"").decode()
        live = {k.decode(): int(v.split(b" ")[1]) for k, v in fields.items()}
        return Seats(live, frozenset(marks[i : i + 20] for i in range(0, len(marks), 50)), revoked)

    async def without_ttl(self, ids: Sequence[str], keys: Sequence[str]) -> list[str]:
        names = [self.store.prefix + id for id in ids] + [self._index(key) for key in keys]
        async with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.pttl(name)
            return [n for n, ttl in zip(names, await pipe.execute(), strict=True) if ttl == -1]

    async def wipe(self, ids: Sequence[str], keys: Sequence[str]) -> None:
        names = [self.store.prefix + id for id in ids] + [self._index(key) for key in keys]
        if names:
            await self._client.delete(*names)

    def _index(self, key: str) -> str:
        return f"{self.store.prefix}of:{key}"


def _clock_key(prefix: str) -> str:
    return f"{prefix}clock"


@asynccontextmanager
async def redis_backend(url: str, prefix: str) -> AsyncGenerator[RedisBackend]:
    """The real store over a real server, whose index's script reads its time from a key."""
    script = Script("index.lua")
    here = b"{string.match(redis.call('GET', '%s'), '(%%d+) (%%d+)')}" % _clock_key(prefix).encode()
    if script.text.count(b"redis.call('TIME')") != 1:
        raise AssertionError("the index's script asks for its time otherwise than expected")
    script.text = script.text.replace(b"redis.call('TIME')", here)
    script.sha = _sha(script.text)
    client = Redis.from_url(as_owner(url))
    store = RedisStore(url, prefix=prefix)
    with mock.patch.object(redis_store, "_INDEX", script):
        backend = RedisBackend(client, store)
        try:
            await backend.set_time()
            yield backend
        finally:
            await store.close()
            await client.delete(_clock_key(prefix))
            await client.aclose()


def _sha(text: bytes) -> str:
    from hashlib import sha1

    return sha1(text, usedforsecurity=False).hexdigest()

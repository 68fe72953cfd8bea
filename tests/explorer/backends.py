"""The real stores, with a back door: to see what is stored, to lose a write, to set the time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, Protocol, cast
from unittest import mock

from redis.asyncio import Redis

from redis_sessions.stores import MemoryStore, RedisStore, Store
from redis_sessions.stores import memory as memory_store
from redis_sessions.stores.protocols import Entry
from redis_sessions.testing import Clock
from tests.support.index_script import index_script, marks_are
from tests.support.servers import as_owner

__all__ = ["Backend", "MemoryBackend", "RedisBackend", "Seats", "narrow_memory", "redis_backend"]

LONG = 3_600_000


class Seats(NamedTuple):
    """What an index holds: live entries with their time, ended marks, the last revocation."""

    live: Mapping[str, int]
    ended: frozenset[str]
    revoked: float
    floor: float
    rotated: Mapping[str, int] = {}
    """When the token of each entry's newest record replaced another."""

    def knows(self, id: str, authenticated: int) -> bool:
        """Whether it can say what became of this session."""
        return id in self.live or id in self.ended or authenticated <= max(self.revoked, self.floor)


class Backend(Protocol):
    """A real store and its back door."""

    @property
    def store(self) -> Store: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def marks(self) -> int:
        """How many an index keeps."""
        ...

    async def fall_behind(self, seconds: float) -> None:
        """Have the index's server fail over to one whose clock is behind by so much."""
        ...

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


class _Pages:
    """Turns over the entries of an index one at a time, as a large one is turned over."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def turn(self, cursor: int, entries: Sequence[Entry]) -> tuple[int, Sequence[Entry]]:
        """What is there all the time is shown once, whatever comes and goes meanwhile."""
        by_number = dict[int, Entry]()
        for entry in sorted(entries, key=lambda entry: entry.seen):  # a server's order is random
            by_number[self._numbers.setdefault(entry.id, len(self._numbers) + 1)] = entry
        left = sorted(number for number in by_number if number > cursor)
        return (left[0] if left[1:] else 0), [by_number[number] for number in left[:1]]


class _PagedRedisStore(RedisStore):
    """A small hash is listed at once, whatever COUNT says."""

    def __init__(self, url: str, *, prefix: str) -> None:
        super().__init__(url, prefix=prefix)
        self._pages = _Pages()

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        _, entries = await super().entries(key)
        return self._pages.turn(cursor, entries)


class _OpenMemoryStore(MemoryStore):
    """The memory store with its insides in reach."""

    pages: _Pages | None = None

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        found = await super().entries(key)
        return found if self.pages is None else self.pages.turn(cursor, found[1])

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
        rotated = {id: entry.rotated for id, entry in index.live.items()}
        return Seats(live, frozenset(index.marks), index.revoked, index.floor, rotated)

    def forget(self) -> None:
        self._records.clear()
        self._indexes.clear()


class MemoryBackend:
    """The memory store: fast."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._behind = 0.0
        self.store = _OpenMemoryStore(
            prefix="explore:", clock=lambda: self.clock.now - self._behind
        )

    @property
    def marks(self) -> int:
        return int(memory_store._MARKS)  # pyright: ignore[reportPrivateUsage]  # it is patched

    async def fall_behind(self, seconds: float) -> None:
        self._behind = seconds

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
        self._behind = 0.0


class RedisBackend:
    """A real server. Its index's clock is a key that the explorer sets; TTLs pass in real time."""

    def __init__(self, client: Redis, store: RedisStore, marks: int) -> None:
        self.clock = Clock()
        self.store = store
        self.marks = marks
        self._client = client
        self._behind = 0.0

    async def fall_behind(self, seconds: float) -> None:
        self._behind = seconds
        await self.set_time()

    async def set_time(self) -> None:
        """Tell the server what time it is."""
        whole = int((self.clock.now - self._behind) * 1_000_000 + 0.5)
        text = f"{whole // 1_000_000} {whole % 1_000_000}"
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
        revoked, _, _, floor, *_ = fields.pop(b"meta", b"-1 -1 -1 -1 ").split(b" ")
        marks = fields.pop(b"marks", b"").decode()
        live = {k.decode(): int(v.split(b" ")[1]) for k, v in fields.items()}
        ended = frozenset(marks[i : i + 20] for i in range(0, len(marks), 50))
        _, entries = await self.store.entries(key)
        rotated = {entry.id: entry.rotated for entry in entries}
        return Seats(live, ended, float(revoked), float(floor), rotated)

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
        if self._behind:
            await self.fall_behind(0.0)

    def _index(self, key: str) -> str:
        return f"{self.store.prefix}of:{key}"


def _clock_key(prefix: str) -> str:
    return f"{prefix}clock"


@contextmanager
def narrow_memory(backend: MemoryBackend, marks: int = 1) -> Generator[MemoryBackend]:
    """Indexes that keep so many marks, and are turned over one entry at a time."""
    backend.store.pages = _Pages()
    with mock.patch.object(memory_store, "_MARKS", marks):
        yield backend


@asynccontextmanager
async def redis_backend(
    url: str, prefix: str, *, marks: int = 0, broken: Iterable[tuple[str, str]] = ()
) -> AsyncGenerator[RedisBackend]:
    """The real store over a real server, whose index's script reads its time from a key.

    `marks`: an index keeps so many, and is turned over one entry at a time. `broken`: what is
    replaced in the script, to see whether that is found.
    """
    here = f"{{string.match(redis.call('GET', '{_clock_key(prefix)}'), '(%d+) (%d+)')}}"
    replaced = [("redis.call('TIME')", here), *broken, *([marks_are(marks)] if marks else [])]
    client = Redis.from_url(as_owner(url))
    store = (_PagedRedisStore if marks else RedisStore)(url, prefix=prefix)
    with index_script(replaced):
        backend = RedisBackend(client, store, marks or 256)
        try:
            await backend.set_time()
            yield backend
        finally:
            await store.close()
            await client.delete(_clock_key(prefix))
            await client.aclose()

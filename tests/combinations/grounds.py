"""Where the sessions are: in memory, or in a Redis with a replica, behind a network that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from redis import Redis

from redis_sessions import MemoryStore, RedisStore, StoreUnavailableError
from redis_sessions.stores.protocols import Store
from redis_sessions.testing import Clock
from tests.support.near import soon
from tests.support.proxy import Proxy
from tests.support.stores import NearStore, UnreliableStore

_METHODS: Final = frozenset(
    {"load", "commit", "end", "enter", "ask", "touch", "authenticated", "mark", "revoke", "entries"}
)


class Ground(Protocol):
    """Makes stores, and takes them away."""

    name: str

    def store(self, prefix: str, clock: Clock, options: Mapping[str, Any]) -> Store: ...

    def begin(self, store: Store) -> None:
        """Empty this store, which is used from now on."""
        ...

    def other(self, prefix: str, clock: Clock, options: Mapping[str, Any], first: Store) -> Store:
        """The store of another process, with the same sessions."""
        ...

    def beside(self, prefix: str, clock: Clock) -> Store:
        """A store for other sessions, which is always there."""
        ...

    def cut(self) -> None:
        """Take the store away."""
        ...

    async def heal(self) -> None:
        """Give it back."""
        ...

    async def settle(self) -> None:
        """Wait until all have heard of what was written."""
        ...


class _TimedStore(UnreliableStore):
    """A store in memory whose clock a manager goes by that has none of its own."""

    def empty(self) -> None:
        """Forget all."""
        self._records.clear()
        self._indexes.clear()

    @property
    def server_clock(self) -> _TimedStore:
        return self

    @property
    def offset(self) -> float:
        """Seconds that `time.monotonic()` is behind this clock."""
        return self._clock() - time.monotonic()


class _NearStore(NearStore, _TimedStore):
    """As that, with near copies."""

    def empty(self) -> None:
        super().empty()
        self.copies.clear()

    def beside(self) -> NearStore:
        other = super().beside()
        other._watchers = self._watchers  # those are told
        return other

    def hear(self) -> None:
        """Have no copy of what others have changed since."""
        found = {id: self._records.get(id, (None, 0.0))[0] for id in self.copies}
        self.copies = {id: c for id, c in self.copies.items() if c.value == found[id]}


class Memory:
    """A store in memory."""

    name = "memory"

    def __init__(self) -> None:
        self._store: _TimedStore = _TimedStore()

    def store(self, prefix: str, clock: Clock, options: Mapping[str, Any]) -> Store:
        kind = _NearStore if "client_cache" in options else _TimedStore
        return kind(prefix=prefix, clock=clock)

    def begin(self, store: Store) -> None:
        assert isinstance(store, _TimedStore)
        self._store = store
        store.empty()

    def other(self, prefix: str, clock: Clock, options: Mapping[str, Any], first: Store) -> Store:
        return first.beside() if isinstance(first, _NearStore) else first

    def beside(self, prefix: str, clock: Clock) -> Store:
        return MemoryStore(prefix=prefix, clock=clock)

    def cut(self) -> None:
        self._store.failing = set(_METHODS)
        if isinstance(self._store, _NearStore):
            self._store.copies.clear()  # nobody tells of changes any more

    async def heal(self) -> None:
        self._store.failing = set()

    async def settle(self) -> None:
        if isinstance(self._store, _NearStore):
            self._store.hear()


class OnRedis:
    """A Redis with a replica. Stores with the same options are used again."""

    name = "redis"

    def __init__(self, proxy: Proxy, replica: int) -> None:
        self._proxy = proxy
        self._direct = Redis(port=proxy.target)
        self._replica = Redis(port=replica)
        self._replica_port = replica
        self._stores: dict[str, RedisStore] = {}
        self._used: RedisStore | None = None

    def _made(self, who: str, port: int, prefix: str, options: Mapping[str, Any]) -> RedisStore:
        own = dict(options)
        query = own.pop("url", "")
        replica = f",127.0.0.1:{self._replica_port}" if "replicas=read" in query else ""
        url = f"redis://127.0.0.1:{port}{replica}/0{query}"
        key = repr((who, url, prefix, own))
        if key not in self._stores:
            self._stores[key] = RedisStore(url, prefix=prefix, **own)
        return self._stores[key]

    def store(self, prefix: str, clock: Clock, options: Mapping[str, Any]) -> Store:
        return self._made("server", self._proxy.port, prefix, options)

    def begin(self, store: Store) -> None:
        assert isinstance(store, RedisStore)
        self._direct.flushall()
        self._used = store

    def other(self, prefix: str, clock: Clock, options: Mapping[str, Any], first: Store) -> Store:
        own = {k: v for k, v in options.items() if k not in ("url", "client_cache")}
        return self._made("other", self._proxy.target, prefix, own)

    def beside(self, prefix: str, clock: Clock) -> Store:
        return self._made("beside", self._proxy.target, prefix, {})

    def cut(self) -> None:
        self._proxy.cut()

    async def heal(self) -> None:
        self._proxy.heal()
        used = self._used
        assert used is not None

        async def answers() -> bool:
            try:
                await used.load("a" * 20)
            except StoreUnavailableError:
                return False
            return True

        async with asyncio.timeout(20):
            while not await answers():  # noqa: ASYNC110 - the store tries again by itself
                await asyncio.sleep(0.005)

    async def settle(self) -> None:
        store = self._used
        if store is None:
            return
        if store.client_cache:
            await soon(lambda: all(self._is_fresh(store, id) for id in self._ids(store)))
        # WAIT is about the writes of its own connection, and so about all that came before these.
        self._direct.set("settled", 1)
        while not self._direct.wait(1, 2000):
            pass

    def _ids(self, store: RedisStore) -> list[str]:
        prefix = store.prefix.encode()
        keys = cast("list[bytes]", self._direct.keys(store.prefix + "?" * 20))
        return [key[len(prefix) :].decode() for key in keys]

    def _is_fresh(self, store: RedisStore, id: str) -> bool:
        copy = store.near_copy(id)
        return copy is None or copy.value == self._direct.get(store.prefix + id)

    async def follow(self) -> None:
        """Wait until the replica follows its primary."""
        await soon(lambda: self._replica.info("replication")["master_link_status"] == "up")

    async def close(self) -> None:
        for store in self._stores.values():
            await store.close()
        self._direct.close()
        self._replica.close()

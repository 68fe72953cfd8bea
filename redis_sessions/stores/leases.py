"""Who leads under which name: a hash for each name, on the store's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from threading import Lock
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from redis_sessions.errors import ConfigurationError, raise_if_short
from redis_sessions.stores.commands import LEASE, IndexCommand, Weight
from redis_sessions.stores.index_replies import checked, fields, flag, nothing
from redis_sessions.stores.memory import MemoryStore
from redis_sessions.stores.protocols import Store
from redis_sessions.stores.redis import RedisStore, servers_of, write_to

__all__ = ["Leadership", "Lease", "Leases", "leases_of", "try_out"]

_KEPT: Final = 400 * 24 * 3600 * 1000
"""Milliseconds that names are kept: as long as their hashes."""


class Lease(NamedTuple):
    """The answer to somebody who wants to lead."""

    mine: bool
    """Whether the one who asked leads from now on."""
    token: int
    """The token of whoever leads."""
    left: float
    """Seconds until the lease ends, unless it is renewed."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads under a name, or led last. Durations are seconds, by the store's clock."""

    name: str
    about: str
    """The host and the process id."""
    token: int
    since: float
    """How long ago the token was given."""
    left: float
    """How long the lease still lasts; 0 if nobody leads."""
    ran: float | None
    """How long ago the last run of a schedule began."""


Call = Callable[[str, Weight, tuple[object, ...]], Awaitable[Any]]
"""`call(name, weight, arguments)` runs the script `lease.lua` on the hash of a name."""


class Leases:
    """The leases of one store. Every operation is atomic, and may be repeated.

    A `claim` is a random text, another one for each attempt to lead. `StoreError` if the store
    can't be used, and `ReplicationError` if too few replicas have what was written.
    """

    def __init__(self, call: Call, names: Callable[[str | None], Awaitable[list[str]]]) -> None:
        self._call = call
        self._names = names

    async def acquire(self, name: str, claim: str, lease: float, about: str, seen: int) -> Lease:
        """Have `claim` lead for `lease` seconds, if nobody else does.

        The token is greater than all before, and than `seen`.
        """
        arguments = ("acquire", claim, _ms(lease), about, seen)
        return _lease(await self._call(name, "lifecycle", arguments))

    async def renew(self, name: str, claim: str, lease: float) -> bool:
        """Lead for `lease` seconds more. False if the lease has ended before."""
        return flag(await self._call(name, "lifecycle", ("renew", claim, _ms(lease))))

    async def release(self, name: str, claim: str) -> None:
        """Lead no longer, if `claim` does."""
        nothing(await self._call(name, "touch", ("release", claim)))

    async def begin(self, name: str, claim: str, run: str, interval: float) -> float | None:
        """Begin a run if `interval` seconds have passed since the last one began.

        0 if it has begun, else the seconds until it is due; None if `claim` doesn't lead. `run` is
        a random text, another one for each run.
        """
        arguments = ("begin", claim, run, _ms(interval))
        return _due(await self._call(name, "lifecycle", arguments))

    async def look(self, name: str) -> Leadership | None:
        """Who leads, or led last; None if nobody has for 400 days. Nothing is written."""
        found = _looked_up(await self._call(name, "read", ("look", "")))
        return found and Leadership(name, *found)

    async def names(self, note: str | None = None) -> list[str]:
        """All names, after `note` has been added."""
        return await self._names(note)


def leases_of(store: Store) -> Leases:
    """The leases of a store; `ConfigurationError` if it is none of this library."""
    if isinstance(store, RedisStore):
        return Leases(partial(_call_redis, store), partial(_names_in_redis, store))
    if isinstance(store, MemoryStore):
        with _lock:
            memory = _in_memory.setdefault(store, _Memory(store))
        return Leases(memory.call, memory.names)
    raise ConfigurationError(
        f"store={store!r}: a leader needs a RedisStore, or a MemoryStore in tests"
    )


async def try_out(store: RedisStore, name: str, milliseconds: int) -> None:
    """Lead for a moment, and leave nothing behind; `StoreError` if a right is missing."""
    leases, key = leases_of(store), f"{store.prefix}leader:{name}"
    await leases.acquire(name, name, milliseconds / 1000, "", 0)
    await leases.begin(name, name, name, milliseconds / 1000)
    await leases.release(name, name)
    expire = IndexCommand(key, ("PEXPIRE", key, milliseconds))
    await servers_of(store).index_commands.submit(expire, 256)


# -- in Redis


async def _call_redis(
    store: RedisStore, name: str, weight: Weight, arguments: tuple[object, ...]
) -> Any:
    key = f"{store.prefix}leader:{name}"
    command = IndexCommand(key, LEASE.call([key], arguments), weight)
    reply, shortfall = await write_to(store, command)
    raise_if_short(shortfall)
    return reply


async def _names_in_redis(store: RedisStore, note: str | None) -> list[str]:
    key = f"{store.prefix}leaders"

    async def send(name: str, *arguments: object) -> Any:
        command = IndexCommand(key, (name, key, *arguments))
        return await servers_of(store).index_commands.submit(command, 256)

    if note is not None:
        await asyncio.gather(send("HSET", note, 1), send("PEXPIRE", _KEPT))
        return [note]
    found, cursor = set[str](), 0
    while True:
        page = await send("HSCAN", cursor, "COUNT", 200)
        found.update(name.decode(errors="replace") for name in fields(page))
        cursor = int(page[0])
        if not cursor:
            return sorted(found)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


@checked
def _lease(reply: Any) -> Lease:
    mine, token, left = reply
    return Lease(mine == 1, int(token), int(left) / 1000)


@checked
def _due(reply: Any) -> float | None:
    return None if int(reply) < 0 else int(reply) / 1000


@checked
def _looked_up(reply: Any) -> tuple[str, int, float, float, float | None] | None:
    """The fields of `Leadership`."""
    if not reply:
        return None
    token, since, left, ran, about = reply
    run = None if ran < 0 else ran / 1000
    return about.decode(errors="replace"), int(token), since / 1000, left / 1000, run


# -- in memory


@dataclass
class _Hash:
    """What `lease.lua` has in a hash."""

    holder: str = ""
    token: int = 0
    since: int = 0
    until: int = 0
    lease: int = 0
    about: str = ""
    start: int = 0
    run: str = ""


class _Memory:
    """The hashes of one store in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self._clock = store._clock  # pyright: ignore[reportPrivateUsage] - by which records expire
        self._hashes: dict[str, _Hash] = {}
        self._noted = set[str]()

    async def names(self, note: str | None) -> list[str]:
        if note is not None:
            self._noted.add(note)
        return sorted(self._noted)

    async def call(self, name: str, _: Weight, arguments: tuple[Any, ...]) -> Any:
        """What the script does, in the same order."""
        with _lock:
            what, claim, *rest = arguments
            here = self._hashes.setdefault(name, _Hash())
            now = int(self._clock() * 1e6)
            if here.holder:
                here.until = min(here.until, now + here.lease)
            leads = bool(here.holder) and here.until > now
            mine = leads and here.holder == claim
            left = _up(here.until - now) if leads else 0
            if what == "acquire":
                return self._acquire(here, now, left, mine, arguments)
            if what == "renew":
                if mine:
                    here.until, here.lease = now + rest[0] * 1000, rest[0] * 1000
                return int(mine)
            if what == "release":
                if here.holder == claim:
                    here.holder, here.until = "", 0
                return 1
            if what == "begin":
                return self._begin(here, now, mine, *rest)
            if not here.token:
                return []
            ran = _up(now - here.start) if here.start else -1
            return [here.token, _up(now - here.since), left, ran, here.about.encode()]

    def _acquire(
        self, here: _Hash, now: int, left: int, mine: bool, arguments: tuple[Any, ...]
    ) -> list[int]:
        _, claim, lease, about, seen = arguments
        if left and not mine:
            return [0, here.token, left]
        if not mine:
            here.token = max(here.token, now, seen) + 1
            here.holder, here.since, here.about = claim, now, about
        here.until, here.lease = now + lease * 1000, lease * 1000
        return [1, here.token, lease]

    def _begin(self, here: _Hash, now: int, mine: bool, run: str, interval: int) -> int:
        if not mine:
            return -1
        if here.run == run:
            return 0
        here.start = min(here.start, now)
        due = here.start + interval * 1000
        if here.start and due > now:
            return _up(due - now)
        here.start, here.run = now, run
        return 0


def _up(microseconds: int) -> int:
    return ceil(microseconds / 1000)


_lock: Final = Lock()
_in_memory: Final[WeakKeyDictionary[MemoryStore, _Memory]] = WeakKeyDictionary()

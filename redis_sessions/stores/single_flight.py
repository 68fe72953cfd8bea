"""One load of one key at a time, among all requests and all processes.

For example, a hundred requests in four processes ask for `user:7` at once. In each process one task
begins, and the requests wait for it. One of the four tasks stores a claim, and loads. The others
wait until the value is stored in the place of the claim.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from itertools import count
from time import monotonic as clock
from typing import Any, Final, NamedTuple, TypeGuard
from weakref import ref

from redis_sessions.connect.loops import PerLoop
from redis_sessions.errors import ConfigurationError, StoreError
from redis_sessions.events import logger
from redis_sessions.stores.caching import Claim, Entries, Entry, Place, Snapshot

__all__ = ["SingleFlight", "Terms"]

Load = Callable[[], Awaitable[bytes]]

_POLL: Final = 0.01
_LONGEST_POLL: Final = 0.1
"""Seconds between two looks at what another process loads, at first and at last."""

_QUIET: Final = 60.0
"""Seconds between two warnings of loads that fail."""

_loading: Final = ContextVar["ref[_Flight]"]("redis_sessions_loading")
"""The load that this task is a part of. It is a weak reference: what a loader opens, such as a
connection, may keep its context for long."""

_ticks: Final = count(1)
"""Gives a greater number for each event, so that events of this process can be put in order."""


class Terms(NamedTuple):
    """How long things last, in milliseconds."""

    ttl: int
    negative: int
    stale: int
    lock: int
    nothing: bytes
    """The value that is kept for `negative`."""
    max_size: int
    """The most bytes of a value that is kept."""


class _Flight:
    """One load of one key, and how many wait for it."""

    task: asyncio.Task[bytes]
    began: int | None = None
    """The tick at which the loader was called."""
    looked = 0
    """The tick at which the store was asked for the last time."""
    claim: Claim | None = None
    """The claim that is known to have been stored."""
    sent: Claim | None = None
    """The claim that may have been stored."""
    before: Entry | None = None
    """The entry that was found when the store was asked for the last time."""
    waiters = 0
    """How many callers wait for it here."""

    def __init__(self, group: str | None) -> None:
        self.group = group
        self.awaits: list[_Flight] = []
        """The loads that its loader waits for."""

    def waits_for(self, other: _Flight) -> bool:
        """Whether it can't end before the other one does."""
        return self is other or any(each.waits_for(other) for each in self.awaits)

    def may_serve(self, arrived: int, seen: Snapshot | None) -> bool:
        """Whether a caller who came at this tick may wait for this load.

        They may not if the loader had been called before they came, and they found another claim,
        or none: then the value was forgotten in between.
        """
        if self.began is None or arrived < self.began or seen is None or self.claim is None:
            return True
        return (self.claim.header, self.claim.generation) == (seen.header, seen.generation)

    def serves(self, arrived: int, seen: Snapshot | None) -> bool:
        """Whether a caller who came at this tick may have the value that this load has given.

        There are three cases:

        1. Another process has loaded it. They may if the store was asked after they came.
        2. The loader was called after they came. They may.
        3. It was called before. They may only if `may_serve` could compare the claim that was
           stored with what they found.
        """
        if self.began is None:
            return self.looked > arrived
        return arrived < self.began or (seen is not None and self.claim is not None)


class SingleFlight:
    """The loads of one cache. `counts` counts what happens."""

    def __init__(self, entries: Entries, counts: Counter[str]) -> None:
        self._entries = entries
        self._counts = counts
        self._flights = PerLoop[dict[str, _Flight]](dict)
        self._ending = set[asyncio.Task[None]]()  # so that nobody collects them
        self._warned = False
        self._quiet_until = 0.0

    def arrive(self) -> int:
        """The tick of a caller who comes now. Call it before you ask the store."""
        return next(_ticks)

    def forget(self, place: Place) -> None:
        """Have no further caller join the load that is under way."""
        self._flights.get().pop(place.id, None)

    def forget_group(self, group: str) -> None:
        """Have no further caller join any load of this group."""
        flights = self._flights.get()
        for id in [id for id, flight in flights.items() if flight.group == group]:
            del flights[id]

    async def value(
        self, place: Place, seen: Snapshot | None, terms: Terms, load: Load, arrived: int
    ) -> bytes:
        """The value that the loader gives, here or in another process, or what stands in for it.

        The loader runs in a task of its own, which is cancelled when nobody waits for it any more.
        `seen`: what the caller has found in the store. None: the store is away. Raises what the
        loader raises.
        """
        while True:
            flight = await self._join(place, seen, terms, load, arrived)
            value = flight.task.result()
            if flight.serves(arrived, seen):
                return value
            try:
                seen = await self._entries.look(place)
            except StoreError:
                return value
            entry = seen.entry
            if self._is_fresh(entry):
                return entry.value

    async def _join(
        self, place: Place, seen: Snapshot | None, terms: Terms, load: Load, arrived: int
    ) -> _Flight:
        """Wait for the load that is under way if it may serve this caller, or for a new one."""
        flights = self._flights.get()
        flight = flights.get(place.id)
        if flight is None or not flight.may_serve(arrived, seen):
            flights[place.id] = flight = _Flight(place.group)
            flight.task = asyncio.create_task(self._fly(flight, place, seen, terms, load))
            flight.task.add_done_callback(partial(_land, flights, place.id, flight))
        loading = _loading.get(None)
        inside = None if loading is None else loading()
        if inside is not None:
            if flight.waits_for(inside):
                raise ConfigurationError(
                    "load= asks for its own key, or for one whose load asks for it, and would "
                    "wait for itself"
                )
            inside.awaits.append(flight)
        flight.waiters += 1
        try:
            await asyncio.wait((flight.task,))
        finally:
            if inside is not None:
                inside.awaits.remove(flight)
            flight.waiters -= 1
            if not flight.waiters and flight.task.cancel():
                _leave(flights, place.id, flight)
        return flight

    async def _fly(
        self, flight: _Flight, place: Place, seen: Snapshot | None, terms: Terms, load: Load
    ) -> bytes:
        _loading.set(ref(flight))
        try:
            return await self._value(flight, place, seen, terms, load)
        except asyncio.CancelledError:  # nobody waits here any more, so no other process need do so
            self._in_background(self._give_up(place, flight, restore=True))
            raise

    async def _value(
        self, flight: _Flight, place: Place, seen: Snapshot | None, terms: Terms, load: Load
    ) -> bytes:
        if seen is not None:
            try:
                found = await self._claim(flight, place, seen, terms.lock)
            except StoreError:
                self._counts["unavailable"] += 1
            else:
                if found is not None:
                    return found
        before = flight.before
        flight.began, started = next(_ticks), clock()
        self._counts["load"] += 1
        if before is not None and self._entries.now() < before.fresh_until:
            self._counts["early"] += 1
        try:
            value = await load()
        except Exception as exc:
            stand_in = self._stand_in(before, terms)
            await self._finish(flight, self._give_up(place, flight, restore=True))
            if stand_in is None:
                raise
            self._counts["stale"] += 1
            if clock() >= self._quiet_until:
                self._quiet_until = clock() + _QUIET
                logger.warning(
                    "cache: a load failed (%s), and the value of before is served",
                    type(exc).__name__,
                )
            return stand_in
        took = int((clock() - started) * 1000)
        await self._finish(flight, self._keep(place, flight, value, took, terms))
        return value

    async def _claim(
        self, flight: _Flight, place: Place, seen: Snapshot, lock: int
    ) -> bytes | None:
        """Claim the entry for this flight. Returns the value if another process has loaded it."""
        loop, pause, tried = asyncio.get_running_loop(), _POLL, False
        until = loop.time() + lock / 1000
        while True:
            flight.before = entry = seen.entry
            waits = True
            if entry is None or entry.busy_until <= self._entries.now():
                flight.sent = claim = self._entries.new_claim(place, seen, lock)
                if await self._entries.claim(place, seen, claim):
                    flight.claim = claim
                    return None
                flight.sent = None
                waits, tried = tried, True
            if waits:
                if loop.time() >= until:
                    return None
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311
                pause = min(pause * 1.5, _LONGEST_POLL)
            # Look again: what was seen before may have been forgotten, and other callers have come.
            flight.looked = next(_ticks)
            seen = await self._entries.look(place)
            entry = seen.entry
            if self._is_fresh(entry):
                self._counts["waited"] += 1
                return entry.value

    def _is_fresh(self, entry: Entry | None) -> TypeGuard[Entry]:
        return entry is not None and bool(entry.value) and self._entries.now() < entry.fresh_until

    def _stand_in(self, before: Entry | None, terms: Terms) -> bytes | None:
        """The value of before, if it may be served now that a load has failed."""
        if before is None or not before.value:
            return None
        until = min(before.kept_until, before.fresh_until + terms.stale)
        return before.value if self._entries.now() < until else None

    async def _keep(
        self, place: Place, flight: _Flight, value: bytes, took: int, terms: Terms
    ) -> None:
        ttl = terms.negative if value == terms.nothing else terms.ttl
        if flight.sent is None:
            return
        if len(value) > terms.max_size:
            ttl = 0
            self._counts["too large"] += 1
            self._warn("a value has %d bytes, over max_size=%d", len(value), terms.max_size)
        if not ttl:
            await self._give_up(place, flight, restore=False)
            return
        try:
            kept = await self._entries.keep(
                place, flight.sent, value, took=took, ttl=ttl, stale=terms.stale
            )
        except StoreError:
            if flight.claim is not None:  # else it was counted when the claim was sent
                self._counts["unavailable"] += 1
            return
        if not kept and flight.claim is not None:
            self._counts["not kept"] += 1
            if took >= terms.lock:
                self._warn("a load took %d ms, longer than its lock=", took)

    async def _give_up(self, place: Place, flight: _Flight, *, restore: bool) -> None:
        """Give up the claim. If the store doesn't answer, the claim expires by itself."""
        if flight.sent is not None:
            with suppress(StoreError):
                await self._entries.release(place, flight.sent, restore=restore)

    async def _finish(self, flight: _Flight, work: Coroutine[Any, Any, None]) -> None:
        """Await this work, or do it in the background if the store hasn't answered the claim.

        The store may be as slow again, and nobody is to wait for that.
        """
        if flight.claim is None:
            self._in_background(work)
        else:
            await work

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _warn(self, message: str, *args: object) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(f"cache: {message}: it isn't kept, and is loaded at each call", *args)


def _leave(flights: dict[str, _Flight], id: str, flight: _Flight) -> None:
    if flights.get(id) is flight:
        del flights[id]


def _land(flights: dict[str, _Flight], id: str, flight: _Flight, task: asyncio.Task[bytes]) -> None:
    """The task is over. Its error is read: asyncio would log one that nobody waits for."""
    _leave(flights, id, flight)
    if not task.cancelled():
        task.exception()

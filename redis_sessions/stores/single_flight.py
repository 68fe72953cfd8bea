"""One load of one key at a time: in this event loop by a task, and among processes by a claim."""

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
from redis_sessions.stores.caching import Claim, Entries, Entry, Place, Sight

__all__ = ["SingleFlight", "Terms"]

Load = Callable[[], Awaitable[bytes]]

_POLL: Final = 0.01
_LONGEST_POLL: Final = 0.1
"""Seconds between two looks at what another process loads, at first and at last."""

_QUIET: Final = 60.0
"""Seconds between two warnings of loads that fail."""

_loading: Final = ContextVar["ref[_Flight]"]("redis_sessions_loading")
"""The load that this task is a part of. What a loader opens may keep its context for long."""

_ticks: Final = count(1)
"""The order in which callers come and loads begin, in this process."""


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
    """The tick at which it was asked for the last time what is stored."""
    claim: Claim | None = None
    """The claim that is known to have been stored."""
    sent: Claim | None = None
    """The claim that may have been stored."""
    before: Entry | None = None
    """What was stored when it was looked for the last time."""
    waiters = 0

    def __init__(self, group: str | None) -> None:
        self.group = group
        self.awaits: list[_Flight] = []
        """The loads that its loader waits for."""

    def waits_for(self, other: _Flight) -> bool:
        """Whether it can't end before the other one does."""
        return self is other or any(each.waits_for(other) for each in self.awaits)

    def may_serve(self, arrived: int, sight: Sight | None) -> bool:
        """Whether whoever came at this tick may wait for it.

        It isn't so if the loader had been called by then, and its claim wasn't there to be seen
        any more: the value was forgotten.
        """
        if self.began is None or arrived < self.began or sight is None or self.claim is None:
            return True
        return (self.claim.header, self.claim.generation) == (sight.header, sight.generation)

    def serves(self, arrived: int, sight: Sight | None) -> bool:
        """Whether what it has given hadn't been forgotten by then. Without a claim nobody knows."""
        if self.began is None:
            return self.looked > arrived
        return arrived < self.began or (sight is not None and self.claim is not None)


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
        """The tick at which somebody comes. Call it before you look."""
        return next(_ticks)

    def forget(self, place: Place) -> None:
        """Nobody joins the load that is under way any more."""
        self._flights.get().pop(place.id, None)

    def forget_group(self, group: str) -> None:
        """The same, for all loads of a group."""
        flights = self._flights.get()
        for id in [id for id, flight in flights.items() if flight.group == group]:
            del flights[id]

    async def value(
        self, place: Place, sight: Sight | None, terms: Terms, load: Load, arrived: int
    ) -> bytes:
        """What the loader gives, here or in another process, or what may stand in for it.

        The loader runs in a task of its own, which is cancelled when nobody waits for it any more.
        `sight` is what was seen; None if the store is away. Raises what the loader raises.
        """
        while True:
            flight = await self._join(place, sight, terms, load, arrived)
            value = flight.task.result()
            if flight.serves(arrived, sight):
                return value
            try:
                sight = await self._entries.look(place)
            except StoreError:
                return value
            entry = sight.entry
            if self._is_fresh(entry):
                return entry.value

    async def _join(
        self, place: Place, sight: Sight | None, terms: Terms, load: Load, arrived: int
    ) -> _Flight:
        """Wait for a flight, or for a new one."""
        flights = self._flights.get()
        flight = flights.get(place.id)
        if flight is None or not flight.may_serve(arrived, sight):
            flights[place.id] = flight = _Flight(place.group)
            flight.task = asyncio.create_task(self._fly(flight, place, sight, terms, load))
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
        self, flight: _Flight, place: Place, sight: Sight | None, terms: Terms, load: Load
    ) -> bytes:
        _loading.set(ref(flight))
        try:
            return await self._value(flight, place, sight, terms, load)
        except asyncio.CancelledError:  # nobody waits here any more, and elsewhere nobody need
            self._later(self._end(place, flight, restore=True))
            raise

    async def _value(
        self, flight: _Flight, place: Place, sight: Sight | None, terms: Terms, load: Load
    ) -> bytes:
        if sight is not None:
            try:
                found = await self._claim(flight, place, sight, terms.lock)
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
            await self._settled(flight, self._end(place, flight, restore=True))
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
        await self._settled(flight, self._keep(place, flight, value, took, terms))
        return value

    async def _claim(self, flight: _Flight, place: Place, sight: Sight, lock: int) -> bytes | None:
        """Claim the entry for this flight. Or the value, if another process has loaded it."""
        loop, pause, tried = asyncio.get_running_loop(), _POLL, False
        until = loop.time() + lock / 1000
        while True:
            flight.before = entry = sight.entry
            waits = True
            if entry is None or entry.busy_until <= self._entries.now():
                flight.sent = claim = self._entries.new_claim(place, sight, lock)
                if await self._entries.claim(place, sight, claim):
                    flight.claim = claim
                    return None
                flight.sent = None
                waits, tried = tried, True
            if waits:
                if loop.time() >= until:
                    return None
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311
                pause = min(pause * 1.5, _LONGEST_POLL)
            # What was seen before may have been forgotten, and others have come since.
            flight.looked = next(_ticks)
            sight = await self._entries.look(place)
            entry = sight.entry
            if self._is_fresh(entry):
                self._counts["waited"] += 1
                return entry.value

    def _is_fresh(self, entry: Entry | None) -> TypeGuard[Entry]:
        return entry is not None and bool(entry.value) and self._entries.now() < entry.fresh_until

    def _stand_in(self, before: Entry | None, terms: Terms) -> bytes | None:
        """The value of before, if it may be served although a load has failed."""
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
            await self._end(place, flight, restore=False)
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

    async def _end(self, place: Place, flight: _Flight, *, restore: bool) -> None:
        """Give up the claim, as far as the store answers. Else it lapses."""
        if flight.sent is not None:
            with suppress(StoreError):
                await self._entries.release(place, flight.sent, restore=restore)

    async def _settled(self, flight: _Flight, work: Coroutine[Any, Any, None]) -> None:
        """Do it. Nobody waits for it if the claim had no answer: the next one may be as late."""
        if flight.claim is None:
            self._later(work)
        else:
            await work

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
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
    """The task is over. Its error is taken, in case that nobody waits for it any more."""
    _leave(flights, id, flight)
    if not task.cancelled():
        task.exception()

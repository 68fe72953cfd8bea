"""Notes when sessions end, for an application that wants to know which ran out (`on_expired=`).

Redis tells nobody reliably that a key has expired. So each session that begins or is touched is
noted in a schedule. `sweep` looks at what is due.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from redis_sessions.errors import ConfigurationError, StoreError, StoreUnavailableError
from redis_sessions.events import logger
from redis_sessions.session.box import Box
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.record import Stored
from redis_sessions.stores.protocols import Commit, Store, Written
from redis_sessions.stores.schedule import Due, schedule_of, try_schedule

__all__ = ["Expired", "Expiry", "OnExpired"]

_PATIENCE: Final = 0.5
"""How many seconds a commit waits for its note at most."""
_PAUSE: Final = 10.0
"""After a commit has waited in vain, no commit waits for so many seconds."""
_SILENCE: Final = 60.0
"""Seconds between two warnings that notes weren't written."""


class _Noted(int):
    """How many milliseconds a record lives. If it is stored, its end is noted, with its data."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Expired:
    """A session that ran out because nobody used it."""

    id: str
    """The same as `session.id`. If one end is told twice, the id is the same."""
    principal: str | None
    """Who was signed in, in the canonical form that `sessions_of()` takes. None: nobody."""
    when: datetime
    """When it ended, in UTC, on the store's clock."""

    def __repr__(self) -> str:
        return f"<Expired {self.id}>"  # a principal may be personal data


OnExpired = Callable[[Expired], Awaitable[object] | object]
"""Is told of each session that ran out. It may be `async`."""


class Expiry:
    """What one manager notes in the schedule of its store, and who is told of what is due in it.

    `find`: says who is signed in by encoded data. `clock`: seconds since the epoch. `within`: the
    seconds within which a record is stored after its time was set. `report`: tells an event.
    """

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        on_expired: OnExpired,
        *,
        find: Callable[[bytes], str | None],
        clock: Callable[[], float],
        within: float,
        report: Callable[..., None],
    ) -> None:
        if not callable(on_expired):
            raise ConfigurationError(
                f"on_expired={on_expired!r}: write a callable, async or not, that takes one Expired"
            )
        self.store = store
        self.schedule = schedule_of(store)
        self._box = Box(keyring, store.prefix, b"rs-expiry")
        self.on_expired = on_expired
        self._find = find
        self._clock = clock
        self.report = report
        self._within = within + 1  # whole seconds are compared
        self._writing = set[asyncio.Future[Any]]()
        self._logs_from = float("-inf")
        self._last: asyncio.Future[Any] | None = None
        self._waits_from = float("-inf")

    async def check(self) -> None:
        """Raise `ConfigurationError` if the store's server can't keep a schedule."""
        try:
            await try_schedule(self.schedule, "connect")
        except StoreError as exc:
            if isinstance(exc, StoreUnavailableError) and exc.reason not in ("refused", "protocol"):
                raise
            raise ConfigurationError(
                f"on_expired=: {exc}; it needs the rights that `redis-sessions acl` gives, and in "
                "a Cluster a prefix= without {}"
            ) from exc

    # -- what requests write. None of it fails a request.

    def wrap_ttl(self, ttl: Callable[[Stored], int]) -> Callable[[Stored], int]:
        """Returns what takes the place of `Backend.ttl`, which is called before each write.

        If the write sets the time of the session, the result has the data to be noted, too.
        """

        def note(stored: Stored) -> int:
            lasts = ttl(stored)
            # A change that is no touch leaves the time as it is.
            if self._clock() - stored.record.seen_at > self._within:
                return lasts
            noted = _Noted(lasts)
            noted.data = stored.data
            return noted

        return note

    def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Awaitable[Written[Commit]]:
        """Does `SessionStore.commit`, and notes what is stored. Anything else may be over."""
        writing = self.store.commit(id, expected, value, int(ttl))
        return self._noted(writing, id, ttl) if isinstance(ttl, _Noted) else writing

    async def _noted(
        self, writing: Awaitable[Written[Commit]], id: str, ttl: _Noted
    ) -> Written[Commit]:
        result: Commit | None = None
        try:
            written = await writing
            result = written.result
        finally:
            if result in (Commit.STORED, None):  # None: nobody knows
                self.write(self.schedule.note(id, int(ttl), self._about_data(id, ttl.data)))
        return written

    def wrap_report(self, report: Callable[..., None]) -> Callable[..., None]:
        """Returns what takes the place of `Backend.report`, which each end of a session calls."""

        def told(
            name: str, reason: str | None = None, id: str | None = None, *more: Any, **by: Any
        ) -> None:
            report(name, reason, id, *more, **by)
            if name == "ended" and id is not None:
                self.write(self.schedule.end(id))

        return told

    def wrap_afterwards(
        self, renew: Callable[[], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]:
        """Returns what takes the place of `Backend.afterwards`, which ends a commit.

        It waits for the note that was sent last, since notes are written in turn.
        """

        async def finished() -> None:
            if self._last is not None:
                await self.keep_pace([self._last])
            await renew()

        return finished

    async def keep_pace(self, notes: Iterable[asyncio.Future[Any]] | None = None) -> None:
        """Wait until these notes, or all, are written. So none come in faster than they leave.

        It waits for half a second at most. If that wasn't enough, nobody waits for ten seconds.
        """
        loop = asyncio.get_running_loop()
        chosen = self._writing.copy() if notes is None else notes
        waiting = [each for each in chosen if not each.done() and each.get_loop() is loop]
        if waiting and time.monotonic() >= self._waits_from:
            _, late = await asyncio.wait(waiting, timeout=_PATIENCE)
            if late:
                self._waits_from = time.monotonic() + _PAUSE

    def write(self, write: Awaitable[Any]) -> asyncio.Future[Any]:
        """Write this, also if the request is cancelled meanwhile. A failure is logged."""
        self._last = future = asyncio.ensure_future(write)
        self._writing.add(future)
        future.add_done_callback(self._written)
        return future

    def _written(self, future: asyncio.Future[Any]) -> None:
        self._writing.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is not None and time.monotonic() >= self._logs_from:
            self._logs_from = time.monotonic() + _SILENCE
            logger.warning("sessions: the schedule for on_expired= lacks changes: %s", error)

    async def wait_written(self) -> None:
        """Wait until all is written that requests in this event loop have noted."""
        loop = asyncio.get_running_loop()
        if waiting := [each for each in self._writing.copy() if each.get_loop() is loop]:
            await asyncio.wait(waiting)

    # -- what is noted beside the time

    def _about_data(self, id: str, data: bytes) -> bytes:
        try:
            principal = self._find(data)
        except Exception:  # noqa: BLE001 - the application's own, and the record is stored
            principal = None
        return self.about(id, principal)

    def about(self, id: str, *parts: str | int | None) -> bytes:
        """What is noted beside the time, sealed: Redis doesn't tell who is signed in.

        `parts` are the principal; and if calls of `on_expired` have failed, when the session ended
        in milliseconds, and how many calls have failed.
        """
        return self._box.seal(id, json.dumps(parts).encode())

    def opened(self, due: Due) -> tuple[str | None, int, int]:
        """The principal, when the session ended in milliseconds, and how many calls have failed."""
        plain = self._box.open(due.id, due.about)
        try:
            principal, *rest = (None,) if plain is None else json.loads(plain)
            at, tries = rest or (due.at, 0)
        except (ValueError, TypeError):  # sealed by another version
            return None, due.at, 0
        return principal, at, tries

"""Tells the application which sessions ran out unused (`on_expired=`).

Redis tells nobody reliably that a key has expired. So each session that begins or is touched is
noted in a schedule, and one process sweeps it, the leader. The record decides: if it is still
there, its session is noted anew, for the time that it has left.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import isawaitable
from typing import Any, Final

from redis_sessions.errors import (
    ConfigurationError,
    LeadershipLostError,
    StoreError,
    StoreUnavailableError,
    check_event_loop,
)
from redis_sessions.events import logger
from redis_sessions.leader import Leader, Term
from redis_sessions.session.box import Box
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.record import Stored, is_record
from redis_sessions.session.token import is_id
from redis_sessions.stores.protocols import Store
from redis_sessions.stores.schedule import SHARDS, Due, schedule_of, try_schedule
from redis_sessions.tracebacks import strip

__all__ = ["Expired", "Expiry", "OnExpired"]

EVERY: Final = 2.0
"""Seconds between two sweeps. As a rule, an application is told of an end so much later."""
STEP: Final = 500
"""How many ends of a shard one step looks at."""
AT_ONCE: Final = 50
"""After so many calls it is noted that they were made. A crash repeats so many of each shard."""

_PAUSE: Final = 15.0
_RETRY: Final = 5.0
_LONGEST_RETRY: Final = 3600.0
_LATEST: Final = 253_402_300_799_000
"""The last second of the year 9999, in milliseconds. Later ones are no datetime."""


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
    """The schedule of one manager, and who is told of what is due in it.

    `find`: says who is signed in by encoded data. `clock`: seconds since the epoch. `within`: the
    seconds within which a record is stored after its time was set.
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
    ) -> None:
        if not callable(on_expired):
            raise ConfigurationError(
                f"on_expired={on_expired!r}: write a callable, async or not, that takes one Expired"
            )
        self._store = store
        self._schedule = schedule_of(store)
        self._box = Box(keyring, store.prefix, b"rs-expiry")
        self._on_expired = on_expired
        self._find = find
        self._clock = clock
        self._within = within + 1  # whole seconds are compared
        self._writing = set[asyncio.Future[Any]]()
        self._failing = False

    async def check(self) -> None:
        """Raise `ConfigurationError` if the store doesn't do this."""
        try:
            await try_schedule(self._schedule, "connect")
        except StoreError as exc:
            if isinstance(exc, StoreUnavailableError) and exc.reason not in ("refused", "protocol"):
                raise
            raise ConfigurationError(
                f"on_expired=: {exc}; it needs the rights that `redis-sessions acl` gives, and in "
                "a Cluster a prefix= without {}"
            ) from exc

    # -- what requests write. Nobody waits for it, and none of it fails a request.

    def noting(self, ttl: Callable[[Stored], int]) -> Callable[[Stored], int]:
        """`Backend.ttl`, which is called for each record that is stored: it notes those, too."""

        def noted(stored: Stored) -> int:
            lasts = ttl(stored)
            # A change that is no touch leaves the time as it is.
            if self._clock() - stored.record.seen_at <= self._within:
                id = stored.token.id
                about = self._about(id, self._find(stored.data))
                self._write(self._schedule.note(id, lasts, about))
            return lasts

        return noted

    def hearing(self, report: Callable[..., None]) -> Callable[..., None]:
        """`Backend.report`, which is told of each end of a session that was stored."""

        def heard(name: str, reason: str | None = None, id: str | None = None, *more: Any) -> None:
            report(name, reason, id, *more)
            if name == "ended" and id is not None:
                self._write(self._schedule.end(id))

        return heard

    def _write(self, write: Awaitable[Any]) -> asyncio.Future[Any]:
        future = asyncio.ensure_future(write)
        self._writing.add(future)
        future.add_done_callback(self._written)
        return future

    def _written(self, future: asyncio.Future[Any]) -> None:
        self._writing.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is not None and not self._failing:
            logger.warning("sessions: the schedule for on_expired= lacks changes: %s", error)
        self._failing = error is not None

    async def settle(self) -> None:
        """Wait until all that was to be written in this event loop is."""
        loop = asyncio.get_running_loop()
        if waiting := [each for each in self._writing.copy() if each.get_loop() is loop]:
            await asyncio.wait(waiting)

    # -- the sweep

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Run the sweep while the body runs."""
        check_event_loop()
        task = asyncio.create_task(self._run(), context=Context())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self.settle()

    async def _run(self) -> None:
        """Sweep as long as this process leads, and wait for that otherwise. It never ends."""
        lead = Leader(self._store)
        while True:
            try:
                async with lead("expiry") as term:
                    await self._sweep_always(term)
            except LeadershipLostError:
                continue  # it has been logged
            except Exception:  # noqa: BLE001 - it is logged
                logger.exception("sessions: on_expired isn't called; this process tries again")
                await asyncio.sleep(_PAUSE)

    async def _sweep_always(self, term: Term) -> None:
        trouble = None
        while True:
            before, trouble = trouble, None
            try:
                await self.sweep(term.check)
            except StoreError as exc:
                trouble = exc
                if before is None:
                    logger.warning("sessions: on_expired waits for the store: %s", exc)
            await asyncio.sleep(EVERY)

    async def sweep(self, check: Callable[[], object] = lambda: None) -> None:
        """Tell of all that has run out by now. `check` raises if another process is to do it.

        All shards are swept at once, and each of them calls `on_expired` once after the other. What
        a shard's server refuses doesn't hold up the others. Then the first error is raised.
        """
        await self.settle()
        sweeps = (self._sweep_shard(shard, check) for shard in SHARDS)
        for error in await asyncio.gather(*sweeps, return_exceptions=True):
            if error is not None:
                raise error

    async def _sweep_shard(self, shard: str, check: Callable[[], object]) -> None:
        more = True
        while more:
            check()
            found, more = await self._schedule.due(shard, STEP)
            if strange := [due for due in found if not is_id(due.id)]:
                await self._schedule.remove(shard, strange)
            over, failed = await self._over([due for due in found if is_id(due.id)])
            for start in range(0, len(over), AT_ONCE):
                check()
                await self._tell_all(shard, over[start : start + AT_ONCE])
            if failed is not None:
                raise failed

    async def _tell_all(self, shard: str, over: Sequence[Due]) -> None:
        told = list[Due]()
        try:
            for due in over:
                if await self._tell(due):
                    told.append(due)
        finally:
            if told:  # also at a shutdown, so that the next process doesn't tell them again
                await asyncio.shield(self._write(self._schedule.remove(shard, told)))

    async def _over(self, found: Sequence[Due]) -> tuple[list[Due], BaseException | None]:
        """Those under whose id nothing is, and an error if a node doesn't say it of the others.

        Those under whose id something is are noted anew, for as long as that lasts.
        """
        over = list[Due]()
        asked = (self._schedule.left(due.id) for due in found)
        lefts = await asyncio.gather(*asked, return_exceptions=True)
        failed: BaseException | None = None
        for due, left in zip(found, lefts, strict=True):
            if isinstance(left, BaseException):
                failed = left
            elif left is None:
                over.append(due)
            else:
                about = due.about
                # A record was touched, and the schedule doesn't know it. A tombstone was put here
                # by who ended the session just now, which the schedule is about to learn; or by
                # who was to end one that had run out before.
                if not is_record(await self._store.load(due.id)):
                    principal, at, tries = self._opened(due)
                    about = self._about(due.id, principal, at, tries)
                await self._schedule.note(due.id, max(1, left), about)
        return over, failed

    async def _tell(self, due: Due) -> bool:
        """Call `on_expired`. If it raises, it is called again later, and the result is False."""
        principal, at, tries = self._opened(due)
        when = datetime.fromtimestamp(min(at, _LATEST) / 1000, UTC)
        try:
            told = self._on_expired(Expired(due.id, principal, when))
            if isawaitable(told):
                await told
        except (Exception, asyncio.CancelledError) as exc:  # whatever it is, the others are told
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it isn't what the application waited for
            strip(exc)
            delay = min(_RETRY * 2**tries, _LONGEST_RETRY)
            logger.exception(
                "sessions: on_expired failed for the session %s, and is called again in %d seconds",
                due.id,
                delay,
            )
            about = self._about(due.id, principal, at, min(tries + 1, 20))
            await self._schedule.note(due.id, int(delay * 1000), about)
            return False
        return True

    # -- what is noted beside the time

    def _about(self, id: str, *parts: str | int | None) -> bytes:
        """The principal; and of an end that couldn't be told, when it was, and how often in vain.

        It is sealed, since nobody who reads Redis learns who is signed in.
        """
        return self._box.seal(id, json.dumps(parts).encode())

    def _opened(self, due: Due) -> tuple[str | None, int, int]:
        plain = self._box.open(due.id, due.about)
        try:
            principal, *rest = (None,) if plain is None else json.loads(plain)
            at, tries = rest or (due.at, 0)
        except (ValueError, TypeError):  # sealed by another version
            return None, due.at, 0
        return principal, at, tries

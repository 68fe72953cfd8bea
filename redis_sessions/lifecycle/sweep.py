"""Tells the application which sessions ran out unused (`on_expired=`).

One process of all sweeps the schedule, the leader. The record decides: if it is still there, its
session is noted anew, for the time that it has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import UTC, datetime
from inspect import isawaitable
from typing import Final

from redis_sessions.errors import LeadershipLostError, StoreError, check_event_loop
from redis_sessions.events import logger
from redis_sessions.leader import Leader, Term
from redis_sessions.lifecycle.expiry import Expired, Expiry
from redis_sessions.session.record import is_record
from redis_sessions.session.token import is_id
from redis_sessions.stores.schedule import SHARDS, Due
from redis_sessions.tracebacks import strip

__all__ = ["AT_ONCE", "LEADER", "STEP", "running", "sweep"]

LEADER: Final = "redis_sessions.expiry"
"""What the leader is called. No job of an application is called so."""
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


@asynccontextmanager
async def running(expiry: Expiry) -> AsyncGenerator[None, None]:
    """Run the sweep while the body runs."""
    check_event_loop()
    task = asyncio.create_task(_run(expiry), context=Context())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await expiry.settle()


async def _run(expiry: Expiry) -> None:
    """Sweep as long as this process leads, and wait for that otherwise. It never ends."""
    lead = Leader(expiry.store)
    while True:
        try:
            async with lead(LEADER) as term:
                await _sweep_always(expiry, term)
        except LeadershipLostError:
            continue  # it has been logged
        except Exception:  # noqa: BLE001 - it is logged
            logger.exception("sessions: on_expired isn't called; this process tries again")
            await asyncio.sleep(_PAUSE)


async def _sweep_always(expiry: Expiry, term: Term) -> None:
    trouble = None
    while True:
        before, trouble = trouble, None
        try:
            await sweep(expiry, term.check)
        except StoreError as exc:
            trouble = exc
            if before is None:
                logger.warning("sessions: on_expired waits for the store: %s", exc)
        await asyncio.sleep(EVERY)


async def sweep(expiry: Expiry, check: Callable[[], object] = lambda: None) -> None:
    """Tell of all that has run out by now. `check` raises if another process is to do it.

    All shards are swept at once, and each of them calls `on_expired` once after the other. What
    a shard's server refuses doesn't hold up the others. Then the first error is raised.
    """
    await expiry.settle()
    sweeps = (_sweep_shard(expiry, shard, check) for shard in SHARDS)
    for error in await asyncio.gather(*sweeps, return_exceptions=True):
        if error is not None:
            raise error


async def _sweep_shard(expiry: Expiry, shard: str, check: Callable[[], object]) -> None:
    more = True
    while more:
        check()
        found, more = await expiry.schedule.due(shard, STEP)
        if strange := [due for due in found if not is_id(due.id)]:
            await expiry.schedule.remove(shard, strange)
        failed: BaseException | None = None
        for start in range(0, len(found), AT_ONCE):
            part = [due for due in found[start : start + AT_ONCE] if is_id(due.id)]
            over, failed = await _over(expiry, part, failed)
            check()
            await _tell_all(expiry, shard, over)
        if failed is not None:
            raise failed


async def _tell_all(expiry: Expiry, shard: str, over: Sequence[Due]) -> None:
    told = list[Due]()
    try:
        for due in over:
            if await _tell(expiry, due):
                told.append(due)
            await asyncio.sleep(0)  # a function that isn't async lets nobody else go on
    finally:
        if told:  # also at a shutdown, so that the next process doesn't tell them again
            await asyncio.shield(expiry.write(expiry.schedule.remove(shard, told)))


async def _over(
    expiry: Expiry, found: Sequence[Due], failed: BaseException | None
) -> tuple[list[Due], BaseException | None]:
    """Those under whose id nothing is, and an error if a node doesn't say it of the others.

    Those under whose id something is are noted anew, for as long as that lasts.
    """
    over = list[Due]()
    asked = (expiry.schedule.left(due.id) for due in found)
    lefts = await asyncio.gather(*asked, return_exceptions=True)
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
            if not is_record(await expiry.store.load(due.id)):
                principal, at, tries = expiry.opened(due)
                about = expiry.about(due.id, principal, at, tries)
            await expiry.schedule.note(due.id, max(1, left), about)
    return over, failed


async def _tell(expiry: Expiry, due: Due) -> bool:
    """Call `on_expired`. If it raises, it is called again later, and the result is False."""
    principal, at, tries = expiry.opened(due)
    when = datetime.fromtimestamp(min(at, _LATEST) / 1000, UTC)
    try:
        told = expiry.on_expired(Expired(due.id, principal, when))
        if isawaitable(told):
            await asyncio.ensure_future(told)  # a task of its own: it may cancel that
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
        about = expiry.about(due.id, principal, at, min(tries + 1, 20))
        await expiry.schedule.note(due.id, int(delay * 1000), about)
        return False
    return True

"""Tells the application which sessions ran out unused (`on_expired=`).

One process of all sweeps the schedule, the leader. The record decides: if it is still there, its
session is noted anew, for the time that it has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
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
"""The leader's name. No job of an application has it."""
EVERY: Final = 2.0
"""Seconds between two sweeps. As a rule, `on_expired` is called at most so long after the end."""
STEP: Final = 500
"""How many ends of a shard one step looks at."""
AT_ONCE: Final = 50
"""After so many calls it is noted that they were made. After a crash, so many calls of each shard
are made again at most."""

LIMIT: Final = 30.0
"""Seconds that one call may take. Then it is cancelled, and made again later."""
SLOW: Final = 1.0
"""Seconds after which the others of its shard wait no longer for a call."""
SLOW_AT_ONCE: Final = 16
"""How many calls may last longer than that at the same time. If there are more, the others wait."""
GRACE: Final = 5.0
"""Seconds that a call may take to end after it was cancelled. Then nobody waits for it."""

Slow = dict[str, asyncio.Task[None]]
"""The sessions that slow calls are about, by id, and the tasks that wait for these calls."""

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
        await expiry.wait_written()


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
    trouble, slow = None, Slow()
    try:
        while True:
            before, trouble = trouble, None
            try:
                await sweep(expiry, term.check, slow)
            except StoreError as exc:
                trouble = exc
                if before is None:
                    logger.warning("sessions: on_expired waits for the store: %s", exc)
            await asyncio.sleep(EVERY)
    finally:
        await _stop(slow.values(), None)


async def sweep(
    expiry: Expiry, check: Callable[[], object] = lambda: None, slow: Slow | None = None
) -> None:
    """Tell of all that has run out by now. `check` raises if another process is to do it.

    All shards are swept at once, and each of them calls `on_expired` once after the other. What
    a shard's server refuses doesn't hold up the others. Then the first error is raised. A call
    that takes long doesn't either: it is added to `slow`, and goes on.
    """
    await expiry.wait_written()
    slow = Slow() if slow is None else slow
    sweeps = (_sweep_shard(expiry, shard, check, slow) for shard in SHARDS)
    for error in await asyncio.gather(*sweeps, return_exceptions=True):
        if error is not None:
            raise error


async def _sweep_shard(expiry: Expiry, shard: str, check: Callable[[], object], slow: Slow) -> None:
    more = True
    while more:
        check()
        found, more = await expiry.schedule.due(shard, STEP)
        if strange := [due for due in found if not is_id(due.id)]:
            await expiry.schedule.remove(shard, strange)
        found = [due for due in found if is_id(due.id) and due.id not in slow]
        failed: BaseException | None = None
        over = list[Due]()
        # All of them at first, since calls may take long. Who signs out meanwhile leaves a
        # tombstone, and that doesn't stay for long.
        for start in range(0, len(found), AT_ONCE):
            here, failed = await _over(expiry, found[start : start + AT_ONCE], failed)
            over += here
        for start in range(0, len(over), AT_ONCE):
            check()
            await _tell_all(expiry, shard, over[start : start + AT_ONCE], slow)
        if failed is not None:
            raise failed


async def _tell_all(expiry: Expiry, shard: str, over: Sequence[Due], slow: Slow) -> None:
    told = list[Due]()
    try:
        for due in over:
            while len(slow) >= SLOW_AT_ONCE:
                await asyncio.wait(slow.values(), return_when=asyncio.FIRST_COMPLETED)
            call = asyncio.create_task(_call(expiry, due))  # its own: it may cancel that
            try:
                await asyncio.wait([call], timeout=SLOW)
            except asyncio.CancelledError:
                if call.done() and await _succeeded(expiry, due, call):
                    told.append(due)
                await _stop([call], GRACE)
                raise
            if not call.done():
                slow[due.id] = asyncio.create_task(_follow(expiry, shard, due, call, slow))
            elif await _succeeded(expiry, due, call):
                told.append(due)
    finally:
        if told:
            await _remove(expiry, shard, told)


async def _over(
    expiry: Expiry, found: Sequence[Due], failed: BaseException | None
) -> tuple[list[Due], BaseException | None]:
    """The entries whose session is over, and the error of a node that didn't answer, if any.

    If something is stored under the id of an entry, the entry is noted anew, for as long as that
    lasts. There are three cases:

    1. It is a record. It was touched, and the schedule doesn't know it.
    2. It is a tombstone of somebody who ended the session just now. The schedule will learn it.
    3. It is a tombstone of somebody who wanted to end it, but it had run out before. So it is told
       later.
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
            if not is_record(await expiry.store.load(due.id)):
                principal, at, tries = expiry.opened(due)
                about = expiry.about(due.id, principal, at, tries)
            await expiry.schedule.note(due.id, max(1, left), about)
    return over, failed


async def _call(expiry: Expiry, due: Due) -> None:
    principal, at, _ = expiry.opened(due)
    when = datetime.fromtimestamp(min(at, _LATEST) / 1000, UTC)
    told = expiry.on_expired(Expired(due.id, principal, when))
    if isawaitable(told):
        await told


async def _follow(
    expiry: Expiry, shard: str, due: Due, call: asyncio.Task[None], slow: Slow
) -> None:
    """Wait for a slow call as long as it may take, and note whether it has succeeded."""
    try:
        try:
            await asyncio.wait([call], timeout=LIMIT - SLOW)
        except asyncio.CancelledError:
            if not call.done():
                raise
        if await _succeeded(expiry, due, call):
            await _remove(expiry, shard, [due])
    except StoreError as exc:  # it stays due, and is told again
        logger.warning("sessions: on_expired waits for the store: %s", exc)
    finally:
        await _stop([call], GRACE)
        del slow[due.id]


async def _remove(expiry: Expiry, shard: str, told: Sequence[Due]) -> None:
    """Also at a shutdown, so that the next process doesn't tell them again."""
    await asyncio.shield(expiry.write(expiry.schedule.remove(shard, told)))


async def _succeeded(expiry: Expiry, due: Due, call: asyncio.Task[None]) -> bool:
    """Whether a call has ended without an error. If not, it is made again later."""
    why = "raised"
    if call.done():
        # It may have been cancelled: so was what the application waited for.
        exc = asyncio.CancelledError() if call.cancelled() else call.exception()
    else:
        why = "too slow"
        exc = TimeoutError(f"it took longer than {LIMIT:g} seconds, and was cancelled")
        await _stop([call], GRACE)
    if exc is None:
        return True
    principal, at, tries = expiry.opened(due)
    strip(exc)
    delay = min(_RETRY * 2**tries, _LONGEST_RETRY)
    logger.error(
        "sessions: on_expired failed for the session %s, and is called again in %d seconds",
        due.id,
        delay,
        exc_info=exc,
    )
    expiry.report("expiry_failed", why, due.id)
    about = expiry.about(due.id, principal, at, min(tries + 1, 20))
    await expiry.schedule.note(due.id, int(delay * 1000), about)
    return False


async def _stop(tasks: Collection[asyncio.Task[None]], within: float | None) -> None:
    """Cancel these, and wait until they have ended, or for some seconds."""
    if running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=within)

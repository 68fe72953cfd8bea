"""One process of all leads, or runs a job: a lease in Redis, renewed by its holder, and a fence.

    leader = Leader("redis://localhost")
    async with leader("nightly") as term:
        await database.execute("UPDATE … WHERE fence <= ?", term.token)

A lease alone can't keep two processes from writing: one that was stopped goes on when another leads
already. The token does, if what is written to compares it. See Kleppmann, "How to do distributed
locking" (2016), and docs/leader.md.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from inspect import iscoroutinefunction, signature
from secrets import token_hex
from typing import Any, Final, TypeVar, cast

from redis_sessions.errors import (
    ConfigurationError,
    LeadershipLostError,
    ReplicationError,
    StoreError,
    StoreUnavailableError,
    check_event_loop,
)
from redis_sessions.events import logger
from redis_sessions.session.state import Duration, seconds
from redis_sessions.stores import StoreOption, open_store
from redis_sessions.stores.leases import leases_of
from redis_sessions.tracebacks import strip, stripped

__all__ = ["Leader", "Term"]

Job = TypeVar("Job", bound=Callable[..., Awaitable[object]])

_MARGIN: Final = 0.1
"""The part of the lease that its holder gives up: for clocks of another speed, and to clean up."""
_RENEW: Final = 1 / 3
"""The part of the lease after which it is renewed."""
_POLL: Final = 1 / 15
"""The part of the lease after which one that waits asks again."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_NAME: Final = 200


def _real_clock() -> Callable[[], float]:
    """A clock that nobody sets, and that goes on while the machine is suspended, if it has one."""
    for clock in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        if hasattr(time, clock):
            return partial(time.clock_gettime, getattr(time, clock))
    return time.monotonic


class Term:
    """The time in which this process leads, from its beginning to its end.

    - `name`: what it leads
    - `token`: a number that is greater than that of each leader before (a fencing token). It is
      less than 2**53, and needs a column of 64 bits
    """

    def __init__(
        self, name: str, token: int, claim: str, lease: float, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.token = token
        self._claim = claim
        self._lease = lease
        self._clock = clock
        self._deadline = float("-inf")
        self._why: str | None = None
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._cancelled = False

    @stripped
    def check(self) -> None:
        """Raise `LeadershipLostError` unless the lease is known to hold at this moment.

        It asks a clock and not the store, so any thread may call it, as often as it likes.
        """
        if self._why is not None or self._clock() >= self._deadline:
            raise self._lost()

    def __repr__(self) -> str:
        return f"<Term {self.name!r} token={self.token}>"

    def _lost(self) -> LeadershipLostError:
        why = self._why or "it couldn't renew the lease in time"
        return LeadershipLostError(f"this process doesn't lead {self.name!r} any more: {why}")

    def _renewed(self, sent: float) -> bool:
        """Note that the lease counts from `sent`, at the latest. False if it has ended already."""
        self._deadline = sent + self._lease * (1 - _MARGIN)
        return self._clock() < self._deadline

    def _watch(self) -> None:
        """Cancel the task of the body when the lease has ended."""
        left = self._deadline - self._clock()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
        else:
            self._lose(None)

    def _lose(self, why: str | None) -> None:
        if self._task is not None and self._why is None:
            self._why = why or "it couldn't renew the lease in time"
            logger.warning("leader %r: token %d is lost: %s", self.name, self.token, self._why)
            self._cancelled = True
            self._task.cancel()

    def _end(self) -> None:
        """Cancel nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._task = None
        self._why = self._why or "its term has ended"


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    function: Callable[..., Awaitable[object]]
    takes_term: bool
    interval: float
    lease: float


class Leader:
    """Elects one process of all that use the same store and prefix, for each name.

        leader = Leader("redis://localhost")  # or manager.leader

    - `store`: a store, a URL, or a redis-py asyncio client
    - `prefix`: of the keys, if the store is made here
    - `lease`: how long another process waits if the leader dies without a word, in seconds or as a
      timedelta. It is renewed after a third of it. Write at least three times the store's timeout
    - `clock`, for tests: gives seconds, and is never set back

    Raises `ConfigurationError`.
    """

    @stripped
    def __init__(
        self,
        store: StoreOption,
        *,
        prefix: str | None = None,
        lease: Duration = 15,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._lease = seconds(lease, "lease")
        self._store = open_store(store, prefix=prefix)
        self._closes = self._store is not store
        self._leases = leases_of(self._store)
        self._clock = _real_clock() if clock is None else clock
        self._jobs: dict[str, _Job] = {}
        self._noted = set[str]()
        self._seen: dict[str, int] = {}  # the greatest token of each name
        self._tasks = set[asyncio.Task[Any]]()

    @stripped
    def __call__(
        self, name: str, *, lease: Duration | None = None
    ) -> AbstractAsyncContextManager[Term]:
        """Wait until this process leads, and lead in the body: `async with leader(name) as term:`.

        If the lease can't be renewed in time, the task of the body is cancelled before another
        process can lead, and the statement raises `LeadershipLostError`. While the store is away
        it waits. It raises `StoreError` if the store refuses.
        """
        length = self._lease if lease is None else seconds(lease, "lease")
        return self._lead(_checked_name(name), length)

    @stripped
    def every(
        self,
        interval: str | Duration,
        *,
        name: str | None = None,
        lease: Duration | None = None,
    ) -> Callable[[Job], Job]:
        """Decorates an async function that one process of all runs every `interval`.

            @leader.every("5m")
            async def clean(term): ...  # or without the parameter

        `interval` is from one start to the next: "30s", "5m", "1h", "1d", seconds or a timedelta.
        `name` is the function's own, with its module, if it isn't given. It runs in `running()`.
        """
        length = self._lease if lease is None else seconds(lease, "lease")

        def decorate(function: Job) -> Job:
            if not iscoroutinefunction(cast("object", function)):
                raise ConfigurationError(f"function={function!r}: write an `async def`")
            its = f"{function.__module__}.{function.__qualname__}" if name is None else name
            if its in self._jobs:
                raise ConfigurationError(f"name={its!r}: another job of this leader has it")
            takes = bool(signature(function).parameters)
            job = _Job(_checked_name(its), function, takes, _interval(interval), length)
            self._jobs[its] = job
            return function

        return cast("Callable[[Job], Job]", stripped(decorate))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Run the jobs of `every` while the body runs, as in a lifespan.

        At its end the jobs are cancelled, and their leases released.
        """
        check_event_loop()
        tasks = [asyncio.create_task(self._run(job)) for job in self._jobs.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()

    async def close(self) -> None:
        """Close the connections of the running event loop, if the store was made here."""
        if self._closes:
            await self._store.close()

    # -- one term

    @asynccontextmanager
    async def _lead(self, name: str, lease: float) -> AsyncGenerator[Term, None]:
        keeper: asyncio.Task[None] | None = None
        term: Term | None = None
        try:
            task = asyncio.current_task()
            assert task is not None
            before = task.cancelling()
            term = await self._acquire(name, lease)
            term._watch()
            keeper = self._start(self._keep(term))
            try:
                yield term
            except asyncio.CancelledError as exc:
                if term._cancelled and task.cancelling() <= before + 1:  # nobody else cancelled it
                    raise term._lost() from exc
                raise
            finally:
                term._end()
                if term._cancelled:
                    task.uncancel()
        except BaseException as exc:
            strip(exc)
            raise
        finally:
            if term is not None and keeper is not None:
                keeper.cancel()
                if not term._cancelled:  # else the lease ends by itself, in a moment
                    await self._release(term.name, term._claim)

    async def _acquire(self, name: str, lease: float) -> Term:
        claim, about = token_hex(16), f"{socket.gethostname()[:100]}:{os.getpid()}"
        attempt: asyncio.Task[Any] | None = None
        complained = False
        try:
            while True:
                pause, sent = lease * _POLL, self._clock()
                try:
                    if name not in self._noted:
                        await self._leases.names(name)
                        self._noted.add(name)
                    seen = self._seen.get(name, 0)
                    attempt = self._start(self._leases.acquire(name, claim, lease, about, seen))
                    mine, token, left = await asyncio.shield(attempt)
                except (StoreUnavailableError, ReplicationError) as exc:
                    if exc.reason == "refused":
                        raise
                    if not complained:
                        logger.warning("leader %r: %s; it tries again", name, exc)
                    complained = True
                else:
                    self._seen[name] = max(token, seen)
                    if mine:
                        term = Term(name, token, claim, lease, self._clock)
                        if term._renewed(sent):
                            logger.info("leader %r: this process leads, token %d", name, token)
                            return term
                    else:
                        attempt = None  # the store has answered that it isn't ours
                        pause = min(pause, left)
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
        except BaseException:
            if attempt is not None:
                await self._release(name, claim, attempt)
            raise

    async def _keep(self, term: Term) -> None:
        """Renew the lease until it is lost."""
        due = self._clock() + term._lease * _RENEW
        while True:
            await asyncio.sleep(max(0.0, due - self._clock()))
            sent = self._clock()
            try:
                mine = await self._leases.renew(term.name, term._claim, term._lease)
            except StoreError as exc:
                logger.warning("leader %r: the lease wasn't renewed: %s", term.name, exc)
                due = self._clock() + term._lease * _POLL
                continue
            if not mine:
                term._lose("the lease had ended in the store")
                return
            if term._renewed(sent):
                late = sent - due
                due = sent + term._lease * _RENEW
                if late > term._lease * _RENEW:
                    logger.warning("leader %r: renewed %.1f s late", term.name, late)

    async def _release(
        self, name: str, claim: str, attempt: asyncio.Task[Any] | None = None
    ) -> None:
        """Let another process lead at once. It goes on if this task is cancelled again."""

        async def release() -> None:
            if attempt is not None:  # the release mustn't arrive before it
                await asyncio.gather(attempt, return_exceptions=True)
            try:
                await self._leases.release(name, claim)
            except StoreError as exc:
                logger.warning("leader %r: not released, and expires by itself: %s", name, exc)

        await asyncio.shield(self._start(release()))

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- jobs

    async def _run(self, job: _Job) -> None:
        while True:
            try:
                async with self._lead(job.name, job.lease) as term:
                    await self._follow(job, term)
            except LeadershipLostError:
                continue  # it has been logged
            except Exception:  # noqa: BLE001 - it is logged
                logger.exception("leader %r: it tries again", job.name)
                await asyncio.sleep(job.lease)

    async def _follow(self, job: _Job, term: Term) -> None:
        """Run a job when it is due, as long as the term lasts."""
        run = token_hex(8)
        while True:
            try:
                due = await self._leases.begin(job.name, term._claim, run, job.interval)
            except (StoreUnavailableError, ReplicationError):  # the lease isn't renewed either
                await asyncio.sleep(job.lease * _POLL)
                continue
            if due is None:
                term._lose("the lease had ended in the store")
            await asyncio.sleep(due or 0)
            if due == 0:
                run = token_hex(8)
                try:
                    await (job.function(term) if job.takes_term else job.function())
                except Exception:  # noqa: BLE001 - it is logged, and the schedule goes on
                    term.check()
                    logger.exception("leader %r: the job failed", job.name)


def _checked_name(name: Any) -> str:
    if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable():
        with suppress(UnicodeEncodeError):
            return name.encode().decode()
    raise ConfigurationError(
        f"name={name!r}: write printable text of 1 to {_LONGEST_NAME} characters"
    )


def _interval(interval: str | Duration) -> float:
    if isinstance(interval, str):
        found = re.fullmatch(r"([1-9]\d{0,8})([smhd])", interval)
        if found is None:
            raise ConfigurationError(
                f"interval={interval!r}: write '30s', '5m', '1h' or '1d', seconds or a timedelta"
            )
        interval = timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    return seconds(interval, "interval")

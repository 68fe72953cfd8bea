"""One process of all leads, or runs a job: a lease in Redis that its holder renews, and a fence.

    leader = Leader("redis://localhost")
    async with leader("nightly") as term:
        await database.execute("UPDATE … WHERE fence <= ?", term.token)

No lease keeps a process from writing that was stopped, and goes on when another one leads. The
token does, where the writes compare it: Kleppmann, "How to do distributed locking" (2016).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from inspect import iscoroutinefunction, signature
from secrets import token_hex
from typing import Any, Final, NamedTuple, TypeVar, cast

from redis_sessions.errors import ConfigurationError, LeadershipLostError, check_event_loop
from redis_sessions.events import logger
from redis_sessions.leader.election import AWAY, Election, pause_of
from redis_sessions.leader.term import Term, own_clock
from redis_sessions.session.state import Duration, seconds
from redis_sessions.stores import StoreOption, open_store
from redis_sessions.stores.leases import leases_of
from redis_sessions.tracebacks import strip, stripped

__all__ = ["Leader", "Term"]

Function = TypeVar("Function", bound=Callable[..., Awaitable[object]])

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Job(NamedTuple):
    function: Callable[..., Awaitable[object]]
    takes_term: bool
    interval: int
    lease: int


class Leader:
    """Elects one process of all that use the same store and prefix, for each name.

        leader = Leader("redis://localhost")  # or manager.leader

    - `store`: a store, a URL, or a redis-py asyncio client
    - `prefix`: of the keys, if the store is made here
    - `lease`: how long others wait for a leader that died, in seconds or as a timedelta. It is
      renewed after a third of it. Write at least three times the store's timeout
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
        self._election = Election(leases_of(self._store), clock or own_clock())
        self._jobs: dict[str, _Job] = {}

    @stripped
    def __call__(
        self, name: str, *, lease: Duration | None = None
    ) -> AbstractAsyncContextManager[Term]:
        """Wait until this process leads, and lead in the body: `async with leader(name) as term:`.

        If the lease can't be renewed in time, the body's task is cancelled before another process
        leads, and the statement raises `LeadershipLostError`. While the store is away, it waits.
        If the store refuses, it raises `StoreError`.
        """
        return self._election.lead(_checked(name), self._length(lease))

    @stripped
    def every(
        self, interval: str | Duration, *, name: str | None = None, lease: Duration | None = None
    ) -> Callable[[Function], Function]:
        """Decorates an async function that one process of all runs: `@leader.every("5m")`.

        `interval` is from one start to the next: "30s", "5m", "1h", "1d", seconds or a timedelta.
        `name` is by default that of the function, with its module. The function may take the
        `Term`. It runs as long as `running()` does.
        """
        pause, length = _interval(interval), self._length(lease)

        def decorate(function: Function) -> Function:
            takes_term = _takes_term(function)
            its = _checked(name or f"{function.__module__}.{function.__qualname__}")
            if its in self._jobs:
                raise ConfigurationError(f"name={its!r}: another job of this leader has it")
            self._jobs[its] = _Job(function, takes_term, pause, length)
            return function

        return cast("Callable[[Function], Function]", stripped(decorate))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Run the jobs, as in a lifespan: `async with leader.running(): yield`.

        At its end they are cancelled, and other processes go on with them.
        """
        try:
            check_event_loop()
            tasks = [asyncio.create_task(self._run(name, job)) for name, job in self._jobs.items()]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self.close()
        except BaseException as exc:
            strip(exc)
            raise

    @stripped
    async def close(self) -> None:
        """Close the connections of the running event loop, if the store was made here."""
        if self._closes:
            await self._store.close()

    def _length(self, lease: Duration | None) -> int:
        return self._lease if lease is None else seconds(lease, "lease")

    # -- jobs

    async def _run(self, name: str, job: _Job) -> None:
        task = asyncio.current_task()
        while task is not None and not task.cancelling():  # a job may swallow its cancellation
            claim = token_hex(16)
            try:
                async with self._election.lead(name, job.lease, claim) as term:
                    await self._follow(job, term, claim, task)
            except LeadershipLostError as exc:
                logger.info("leader %r: %s", name, exc)
            except Exception:  # noqa: BLE001 - it is logged
                logger.exception("leader %r: this process tries again", name)
                await asyncio.sleep(job.lease)

    async def _follow(self, job: _Job, term: Term, claim: str, task: asyncio.Task[Any]) -> None:
        """Run a job whenever it is due, as long as the term lasts."""
        run = token_hex(8)
        while not task.cancelling():
            try:
                due = await self._election.leases.begin(term.name, claim, run, job.interval)
            except AWAY:  # the lease isn't renewed either, if this lasts
                due = pause_of(job.lease)
            if due is None:
                raise LeadershipLostError(f"the lease of {term.name!r} had ended in the store")
            if due == 0:
                run = token_hex(8)
                try:
                    await (job.function(term) if job.takes_term else job.function())
                except LeadershipLostError:  # also that of a write which a later leader fenced off
                    raise
                except (Exception, asyncio.CancelledError) as exc:
                    if isinstance(exc, asyncio.CancelledError) and task.cancelling():
                        raise
                    logger.exception("leader %r: the job failed", term.name)
            await asyncio.sleep(due)


def _takes_term(function: Callable[..., Awaitable[object]]) -> bool:
    """Whether a job takes the term; `ConfigurationError` if it can't be one."""
    if not iscoroutinefunction(cast("object", function)):
        raise ConfigurationError(f"function={function!r}: write an `async def`")
    for arguments in (["the term"], []):
        with suppress(TypeError):
            signature(function).bind(*arguments)
            return bool(arguments)
    raise ConfigurationError(f"function={function!r}: it may take the term, or nothing")


def _checked(name: Any) -> str:
    if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable():
        return name
    raise ConfigurationError(f"name={name!r}: write printable text of 1 to 200 characters")


def _interval(interval: str | Duration) -> int:
    if isinstance(interval, str):
        found = re.fullmatch(r"([1-9][0-9]{0,7})([smhd])", interval)
        if found is None:
            raise ConfigurationError(
                f"interval={interval!r}: write '30s', '5m', '1h' or '1d', seconds or a timedelta"
            )
        interval = int(found[1]) * _UNITS[found[2]]
    return seconds(interval, "interval")

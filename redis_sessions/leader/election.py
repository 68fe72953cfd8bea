"""How a process comes to lead, and keeps its lease."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import Any, Final

from redis_sessions import errors
from redis_sessions.errors import StoreError
from redis_sessions.events import logger
from redis_sessions.leader.term import Hold, Term
from redis_sessions.stores.leases import Leases
from redis_sessions.tracebacks import strip

__all__ = ["AWAY", "Election", "pause_of"]

_SAFE: Final = 0.9
"""For which part of a lease its holder leads. Clocks differ in speed, and a task that is cancelled
needs time to clean up."""
_RENEW: Final = 1 / 3
"""After which part of a lease it is renewed."""

AWAY: Final = (errors.StoreUnavailableError, errors.ReplicationError)


def pause_of(lease: int) -> float:
    """Seconds until one asks again that waits for this lease, or that couldn't renew it."""
    return min(lease / 15, 1.0)


class Election:
    """Has one process of all lead under each name. `clock` gives seconds, and is never set back."""

    def __init__(self, leases: Leases, clock: Callable[[], float]) -> None:
        self.leases = leases
        self._clock = clock
        self._noted = set[str]()
        self._seen: dict[str, int] = {}  # the greatest token of each name
        self._tasks = set[asyncio.Task[Any]]()

    @asynccontextmanager
    async def lead(
        self, name: str, lease: int, claim: str | None = None
    ) -> AsyncGenerator[Term, None]:
        """Lead in the body, by a `claim` that nobody else has. The lease is in seconds."""
        errors.check_event_loop()
        claim = claim or token_hex(16)
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            hold = await self._acquire(name, claim, lease)
            keeper = self._start(self._keep(hold, claim, lease))
            self._start(self._note(name))
            try:
                yield Term(hold)
            except asyncio.CancelledError as exc:
                if hold.cancelled and task.cancelling() <= before + 1:  # nobody else cancelled it
                    raise hold.lost() from exc
                raise
            finally:
                keeper.cancel()
                hold.end()
                if hold.cancelled:  # the lease ends by itself in a moment
                    task.uncancel()
                else:
                    await asyncio.shield(self._start(self._release(name, claim)))
        except BaseException as exc:
            strip(exc)
            raise

    async def _acquire(self, name: str, claim: str, lease: int) -> Hold:
        about = f"{socket.gethostname()[:100]}:{os.getpid()}"
        attempt: asyncio.Task[Any] | None = None
        complained = False
        try:
            while True:
                pause, sent, seen = pause_of(lease), self._clock(), self._seen.get(name, 0)
                attempt = self._start(self.leases.acquire(name, claim, lease, about, seen))
                try:
                    mine, token, left = await asyncio.shield(attempt)
                except AWAY as exc:
                    if exc.reason == "refused":
                        raise
                    if not complained:
                        logger.warning("leader %r: %s; this process tries again", name, exc)
                    complained = True
                else:
                    self._seen[name] = max(token, self._seen.get(name, 0))
                    ends = sent + lease * _SAFE
                    if mine and self._clock() < ends:  # else the answer came late
                        logger.info("leader %r: this process leads, token %d", name, token)
                        hold = Hold(name, token, ends, self._clock)
                        hold.watch()
                        return hold
                    if not mine:
                        attempt, pause = None, min(pause, left)
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
        except BaseException:
            if attempt is not None:  # the store may have given it the lease
                await asyncio.shield(self._start(self._release(name, claim, attempt)))
            raise

    async def _keep(self, hold: Hold, claim: str, lease: int) -> None:
        """Renew the lease until it is lost."""
        due, failed = self._clock() + lease * _RENEW, False
        while True:
            await asyncio.sleep(max(0.0, due - self._clock()))
            if hold.is_lost:  # also if the body goes on, since it may have caught its cancellation
                return
            sent = self._clock()
            try:
                mine = await self.leases.renew(hold.name, claim, lease)
            except StoreError as exc:
                if not failed:
                    logger.warning("leader %r: the lease wasn't renewed: %s", hold.name, exc)
                due, failed = self._clock() + pause_of(lease), True
                continue
            if not mine:
                hold.lose("the lease had ended in the store")
                return
            if failed:
                logger.warning("leader %r: the lease was renewed late", hold.name)
            hold.ends = sent + lease * _SAFE
            due, failed = sent + lease * _RENEW, False

    async def _note(self, name: str) -> None:
        """Add the name to those that tools list."""
        if name not in self._noted:
            with suppress(StoreError):  # it is tried again in the next term
                await self.leases.names(name)
                self._noted.add(name)

    async def _release(
        self, name: str, claim: str, attempt: asyncio.Task[Any] | None = None
    ) -> None:
        """Let another process lead at once. It mustn't arrive before an attempt to lead."""
        if attempt is not None:
            await asyncio.wait([attempt])
        try:
            await self.leases.release(name, claim)
        except StoreError as exc:
            logger.warning("leader %r: not released, and expires by itself: %s", name, exc)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

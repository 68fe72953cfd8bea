"""Locks that are waited for in turn: the first in line asks for all, and nobody holds a connection.

Those who want one lock in one event loop stand in one line. Only the first of them asks the store;
when it gives the lock back, the next one asks at once. Other processes ask now and then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

from redis_sessions.errors import SessionConflictError, StoreError
from redis_sessions.events import logger

__all__ = ["Ask", "Locks"]

Ask = Callable[[str, str, int], Awaitable[bool]]
"""`ask(name, value, milliseconds)` takes the lock for this value, or gives it back (0).

Whether it is this value's. It may be repeated.
"""

_POLL: Final = 0.02
"""Seconds between two questions of one line about a lock that another process has."""
_EACH: Final = 0.001
"""Seconds that each further line adds: all lines of a loop together ask 1,000 times a second."""
_IN_A_ROW: Final = 0.1
"""Seconds after which a line leaves the lock free for `_LEFT` seconds, for other processes."""
_LEFT: Final = 2 * _POLL


@dataclass(eq=False)
class _Line:
    """Those of one event loop who want one lock."""

    since: float
    """Since when this line has had the lock without a break."""
    count: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """First come, first served."""


class _Claim:
    """One of them."""

    def __init__(self, name: str, line: _Line) -> None:
        self.name = name
        self.line = line
        self.value = token_hex(16)
        self.first = False
        self.lapse: asyncio.TimerHandle | None = None
        self.asked: asyncio.Future[bool] | None = None
        """By which the store may have given it the lock."""

    def step_back(self) -> None:
        """Let the next one be first."""
        if self.lapse is not None:
            self.lapse.cancel()
        if self.first:
            self.first = False
            self.line.turn.release()


class Locks:
    """The locks of one store, as one event loop sees them.

    `close`: once `leave()` was called, what to do when nobody is left in any line.
    """

    def __init__(self, ask: Ask, close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._ask = ask
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, _Line] = {}
        self._polling = 0
        self._left = False
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lock(self, name: str, *, wait: float, hold: float) -> AsyncGenerator[None, None]:
        """Hold a lock, for `hold` seconds at most.

        `SessionConflictError` if it isn't free within `wait` seconds, or `StoreError`.
        """
        line = self._lines.setdefault(name, _Line(self._loop.time()))
        line.count += 1
        claim = _Claim(name, line)
        try:
            if not await self._take(claim, self._loop.time() + wait, hold):
                raise SessionConflictError(f"another request locked the session for {wait:g} s")
            yield
        finally:
            if claim.asked is None:
                self._end(claim)
            else:  # in a task of its own: it goes on when this one is cancelled again
                await asyncio.shield(self._keep(self._give_back(claim)))

    def leave(self) -> None:
        """The store is closed: who has a lock, or waits, goes on, and then it is closed again."""
        self._left = True

    async def _take(self, claim: _Claim, ends: float, hold: float) -> bool:
        line, polls = claim.line, 0
        try:
            async with asyncio.timeout_at(ends):
                await line.turn.acquire()
        except TimeoutError:
            return False
        claim.first = True
        if self._loop.time() - line.since > _IN_A_ROW:
            await self._sleep(_LEFT, ends)
            line.since = self._loop.time()
        try:
            while True:
                asked = self._ask(claim.name, claim.value, max(1, int(hold * 1000)))
                claim.asked = asyncio.ensure_future(asked)
                if await asyncio.shield(claim.asked):
                    # Later the lock is anybody's, and so is the turn.
                    claim.lapse = self._loop.call_later(hold, claim.step_back)
                    return True
                claim.asked = None  # it isn't ours, for certain
                line.since = self._loop.time()
                if line.since >= ends:
                    return False
                if not polls:
                    polls = 1
                    self._polling += 1
                pause = max(_POLL, self._polling * _EACH)
                await self._sleep(pause * random.uniform(0.75, 1.25), ends)  # noqa: S311
        finally:
            self._polling -= polls

    async def _sleep(self, seconds: float, ends: float) -> None:
        await asyncio.sleep(min(seconds, max(0, ends - self._loop.time())))

    async def _give_back(self, claim: _Claim) -> None:
        assert claim.asked is not None
        try:
            # Whoever was cancelled while it asked is answered first: its end must not come before.
            await asyncio.gather(claim.asked, return_exceptions=True)
            await self._ask(claim.name, claim.value, 0)
        except StoreError as exc:
            logger.warning("sessions: a lock wasn't given back, and lapses by itself: %s", exc)
        finally:
            self._end(claim)
        if self._left and not self._lines and self._close is not None:
            await self._close()

    def _end(self, claim: _Claim) -> None:
        claim.step_back()
        claim.line.count -= 1
        if not claim.line.count:
            del self._lines[claim.name]

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

"""Locks that requests wait for in turn. Nobody holds a connection while it waits.

The requests of one event loop that want one lock form a queue. Only the first of them asks the
store. When it releases the lock, the next one asks at once. Other processes ask now and then.
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

__all__ = ["Locks", "SetLock"]

SetLock = Callable[[str, str, int], Awaitable[bool]]
"""`set_lock(name, value, milliseconds)` acquires the lock for this value, or releases it (0 ms).

True if the lock is this value's, or was until now. It may be repeated.
"""

_POLL: Final = 0.02
"""Seconds between two attempts of one queue to get a lock that another process has."""
_EACH: Final = 0.001
"""Seconds that each further queue adds. All queues make 1,000 attempts a second at most."""
_IN_A_ROW: Final = 0.1
"""Seconds after which a queue leaves the lock free for `_FREE` seconds, for other processes."""
_FREE: Final = 2 * _POLL


@dataclass(eq=False)
class _Queue:
    """The requests of one event loop that want one lock."""

    since: float
    """Since when this queue has had the lock without a break."""
    count: int = 0
    """How many requests are in it."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Who holds it is the first in the queue."""


class _Claim:
    """One request that wants a lock."""

    def __init__(self, name: str, queue: _Queue) -> None:
        self.name = name
        self.queue = queue
        self.value = token_hex(16)
        self.first = False
        """Whether it is the first in the queue."""
        self.expiry: asyncio.TimerHandle | None = None
        self.attempt: asyncio.Future[bool] | None = None
        """The attempt by which the store has given it the lock, or may have."""

    def end_turn(self) -> None:
        """Let the next one be the first."""
        if self.expiry is not None:
            self.expiry.cancel()
        if self.first:
            self.first = False
            self.queue.turn.release()


class Locks:
    """The locks of one store, as one event loop sees them.

    `close` is called when no request is in any queue, if `close_when_unused` was called before.
    """

    def __init__(
        self, set_lock: SetLock, close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._set_lock = set_lock
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._queues: dict[str, _Queue] = {}
        self._polling = 0
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lock(self, name: str, *, wait: float, hold: float) -> AsyncGenerator[None, None]:
        """Hold a lock, for `hold` seconds at most.

        `SessionConflictError` if it isn't free within `wait` seconds, or `StoreError`.
        """
        queue = self._queues.setdefault(name, _Queue(self._loop.time()))
        queue.count += 1
        claim = _Claim(name, queue)
        try:
            if not await self._acquire(claim, self._loop.time() + wait, hold):
                raise SessionConflictError(f"another request locked the session for {wait:g} s")
            yield
        finally:
            if claim.attempt is None:
                self._leave_queue(claim)
            else:  # in a task of its own, which goes on if this one is cancelled again
                await asyncio.shield(self._start(self._release(claim)))

    def close_when_unused(self) -> None:
        """Have `close` called once no request has a lock or waits for one.

        The store was closed then. Such a request has opened connections again.
        """
        self._closing = True

    async def _acquire(self, claim: _Claim, ends: float, hold: float) -> bool:
        queue, polls = claim.queue, 0
        try:
            async with asyncio.timeout_at(ends):
                await queue.turn.acquire()
        except TimeoutError:
            return False
        claim.first = True
        if self._loop.time() - queue.since > _IN_A_ROW:
            await self._sleep(_FREE, ends)
            queue.since = self._loop.time()
        try:
            while True:
                attempt = self._set_lock(claim.name, claim.value, max(1, int(hold * 1000)))
                claim.attempt = asyncio.ensure_future(attempt)
                if await asyncio.shield(claim.attempt):
                    # Then the lock has expired, and it is the next one's turn.
                    claim.expiry = self._loop.call_later(hold, claim.end_turn)
                    return True
                claim.attempt = None  # the store has answered that it isn't ours
                queue.since = self._loop.time()
                if queue.since >= ends:
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

    async def _release(self, claim: _Claim) -> None:
        assert claim.attempt is not None
        try:
            # If the request was cancelled during an attempt, the release must not arrive before it.
            await asyncio.gather(claim.attempt, return_exceptions=True)
            await self._set_lock(claim.name, claim.value, 0)
        except StoreError as exc:
            logger.warning("sessions: a lock wasn't released, and expires by itself: %s", exc)
        finally:
            self._leave_queue(claim)
        if self._closing and not self._queues and self._close is not None:
            await self._close()

    def _leave_queue(self, claim: _Claim) -> None:
        claim.end_turn()
        claim.queue.count -= 1
        if not claim.queue.count:
            del self._queues[claim.name]

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

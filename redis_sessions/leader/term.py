"""The time in which a process leads, and the clock that it goes by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from redis_sessions.errors import LeadershipLostError
from redis_sessions.events import logger
from redis_sessions.tracebacks import stripped

__all__ = ["Term", "own_clock"]

_LATE: Final = "the lease wasn't renewed in time"


def own_clock() -> Callable[[], float]:
    """Seconds on a clock that nobody sets, and that goes on while the machine is suspended."""
    for clock in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):  # Linux; macOS
        if hasattr(time, clock):
            return partial(time.clock_gettime, getattr(time, clock))
    return time.monotonic


class Term:
    """The time in which this process leads what is called `name`, from its beginning to its end.

    `token` is greater than that of each leader before. It is below 2**53, and needs 64 bits.
    """

    def __init__(self, name: str, token: int, ends: float, clock: Callable[[], float]) -> None:
        self.name: str = name
        self.token: int = token
        self._ends = ends
        self._clock = clock
        self._why = ""  # why it is over
        self._task = asyncio.current_task()
        self._cancelled = False
        self._timer: asyncio.TimerHandle | None = None

    @stripped
    def check(self) -> None:
        """Raise `LeadershipLostError` unless the lease is known to hold at this moment.

        It asks a clock, and not the store. Any thread may call it.
        """
        if self._why or self._clock() >= self._ends:
            raise self._lost()

    def __repr__(self) -> str:
        return f"<Term {self.name!r} token={self.token}>"

    def _lost(self) -> LeadershipLostError:
        why = self._why or _LATE
        return LeadershipLostError(f"this process doesn't lead {self.name!r} any more: {why}")

    def _watch(self) -> None:
        """Cancel the body's task when the lease has ended."""
        left = self._ends - self._clock()
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._watch)
        else:
            self._lose(_LATE)

    def _lose(self, why: str) -> None:
        if not self._why and self._task is not None:
            logger.warning("leader %r: token %d is lost: %s", self.name, self.token, why)
            self._why = why
            self._cancelled = self._task.cancel()

    def _end(self) -> None:
        self._why = self._why or "its body has ended"
        if self._timer is not None:
            self._timer.cancel()

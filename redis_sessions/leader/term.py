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

__all__ = ["Hold", "Term", "own_clock"]

_LATE: Final = "the lease wasn't renewed in time"


def own_clock() -> Callable[[], float]:
    """Seconds on a clock that nobody sets, and that goes on while the machine is suspended."""
    for clock in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):  # Linux; macOS
        if hasattr(time, clock):
            return partial(time.clock_gettime, getattr(time, clock))
    return time.monotonic


class Hold:
    """What this process knows of the lease that it holds: until when, and why no longer."""

    def __init__(self, name: str, token: int, ends: float, clock: Callable[[], float]) -> None:
        self.name = name
        self.token = token
        self.ends = ends
        self.cancelled = False
        """Whether the body's task was cancelled, since the lease was lost."""
        self._clock = clock
        self._why = ""
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it is known that the lease is lost, or that the body has ended."""
        return bool(self._why)

    def check(self) -> None:
        """Raise `LeadershipLostError` unless the lease holds at this moment."""
        if self._why or self._clock() >= self.ends:
            raise self.lost()

    def lost(self) -> LeadershipLostError:
        """The error that says why."""
        why = self._why or _LATE
        return LeadershipLostError(f"this process doesn't lead {self.name!r} any more: {why}")

    def watch(self) -> None:
        """Cancel the body's task when the lease has ended."""
        left = self.ends - self._clock()
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self.watch)
        else:
            self.lose(_LATE)

    def lose(self, why: str) -> None:
        """Cancel the body's task, unless the body has ended."""
        if not self._why and self._task is not None:
            logger.warning("leader %r: token %d is lost: %s", self.name, self.token, why)
            self._why = why
            self.cancelled = self._task.cancel()

    def end(self) -> None:
        """Note that the body has ended."""
        self._why = self._why or "its body has ended"
        if self._timer is not None:
            self._timer.cancel()


class Term:
    """The time in which this process leads what is called `name`, from its beginning to its end.

    `token` is greater than that of each leader before. It is below 2**53, and needs 64 bits.
    """

    def __init__(self, hold: Hold) -> None:
        self.name: str = hold.name
        self.token: int = hold.token
        self._hold = hold

    @stripped
    def check(self) -> None:
        """Raise `LeadershipLostError` unless the lease is known to hold at this moment.

        It asks a clock, and not the store. Any thread may call it.
        """
        self._hold.check()

    def __repr__(self) -> str:
        return f"<Term {self.name!r} token={self.token}>"

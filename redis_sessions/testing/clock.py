"""Time that moves only when a test says so."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

__all__ = ["Clock"]

START: Final = 1_800_000_000.0


class Clock:
    """A clock for `SessionManager(clock=…)` and `MemoryStore(clock=…)`: seconds since the epoch.

    A Redis server has a clock of its own, which expires keys by real time.
    """

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, duration: float | timedelta) -> None:
        """Move on by seconds, or a timedelta."""
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
        self.now += seconds

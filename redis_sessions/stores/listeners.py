"""Who listens to a channel, and who waits until its server has confirmed that.

Many may do so at once, each of them for several channels. So what one costs doesn't grow with their
number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from redis_sessions.connect.failures import late
from redis_sessions.connect.subscriber import Subscriber

__all__ = ["Listened", "Told", "Waiting"]

Told = Callable[[str, bytes | None], None]
"""Is called with a channel and what was published in it; with None if something may be missing."""

_TURNS: Final = 4
_MOST: Final = 5


class Waiting:
    """One listener that waits for `missing` channels."""

    def __init__(self) -> None:
        self.missing = 0
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def until_confirmed(self, seconds: float, heard_at: Callable[[], float]) -> None:
        """Return when all are confirmed. Raises what `fail` was given, or `StoreError`.

        It may take so many seconds after the latest confirmation of any channel (`heard_at`), since
        there may be many to confirm; but five times that at most.
        """
        turns, most, heard = _TURNS, _MOST * _TURNS, heard_at()
        while turns > 0 and most > 0:
            # Turns are counted, and not seconds, since this loop itself may have been busy.
            await asyncio.wait([self._future], timeout=seconds / _TURNS)
            if self._future.done():
                self._future.result()
                return
            most -= 1
            turns = turns - 1 if heard_at() == heard else _TURNS
            heard = heard_at()
        raise late("the server of a channel", seconds)

    def confirm(self) -> None:
        """One more is."""
        self.missing -= 1
        if not self.missing and not self._future.done():
            self._future.set_result(None)

    def fail(self, error: Exception) -> None:
        """One of them won't be."""
        if not self._future.done():
            self._future.set_exception(error)


class Listened:
    """One channel that somebody listens to."""

    __slots__ = ("at", "confirmed", "missed", "told", "waiting")

    def __init__(self) -> None:
        self.told: dict[object, Told] = {}
        self.waiting: dict[object, Waiting] = {}
        """Those who wait until the server has confirmed it."""
        self.at: Subscriber | None = None
        self.confirmed = False
        self.missed = False
        """Whether it was confirmed before, so that something may be missing."""

    def add(self, token: object, told: Told, waiting: Waiting) -> None:
        """Somebody listens from now on, and waits for it if need be."""
        self.told[token] = told
        if not self.confirmed:
            self.waiting[token] = waiting
            waiting.missing += 1

    def remove(self, token: object) -> None:
        """They don't any more."""
        self.told.pop(token, None)
        self.waiting.pop(token, None)

    def confirm(self) -> None:
        """The server tells of it."""
        self.confirmed = True
        self._waited(Waiting.confirm)

    def fail(self, error: Exception) -> None:
        """It doesn't, and those who wait get this error."""
        self._waited(lambda waiting: waiting.fail(error))

    def _waited(self, call: Callable[[Waiting], None]) -> None:
        waiting, self.waiting = self.waiting, {}
        for each in waiting.values():
            call(each)

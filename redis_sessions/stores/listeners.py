"""Who listens to a channel, and who waits until its server has confirmed that.

Many may listen at once, each of them to several channels. So the cost of one listener doesn't grow
with the number of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from redis_sessions.connect.failures import late
from redis_sessions.connect.loops import call_later
from redis_sessions.connect.subscriber import Subscriber

__all__ = ["Listened", "Patience", "Told", "Waiting"]

Told = Callable[[str, bytes | None], None]
"""Is called with a channel and what was published in it; with None if something may be missing."""

_TURNS: Final = 4
"""Into how many turns the time is divided that somebody waits after the last confirmation."""
_MOST: Final = 5
"""How many times as long somebody waits at most."""


class Waiting:
    """One listener that waits for `missing` channels."""

    def __init__(self) -> None:
        self.missing = 0
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Is done when all of them are confirmed, or one won't be."""
        self.turns = _TURNS
        """How many turns are left unless some channel is confirmed."""
        self._most = _MOST * _TURNS

    def confirm(self) -> None:
        """One more channel is confirmed."""
        self.missing -= 1
        if not self.missing and not self.confirmed.done():
            self.confirmed.set_result(None)

    def fail(self, error: Exception) -> None:
        """One of the channels won't be confirmed."""
        if not self.confirmed.done():
            self.confirmed.set_exception(error)

    def note_turn(self, heard: bool) -> bool:
        """Whether its time is over. `heard`: whether some channel was confirmed in this turn."""
        self.turns = _TURNS if heard else self.turns - 1
        self._most -= 1
        return min(self.turns, self._most) <= 0


class Patience:
    """Ends the waiting of listeners whose channels aren't confirmed, in one event loop.

    A listener waits for `seconds` after the latest confirmation of any channel, since there may be
    many channels; and for five times as long at most.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._all: dict[Waiting, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.heard = False
        """Whether a channel was confirmed in this turn."""

    async def wait(self, waiting: Waiting) -> None:
        """Return when all of its channels are confirmed. Raises the error of one that won't be."""
        self._all[waiting] = None
        if self._timer is None:
            self._next_turn()
        else:  # this turn has begun before, and so it doesn't count
            waiting.turns += 1
        try:
            await waiting.confirmed
        finally:
            del self._all[waiting]

    def _next_turn(self) -> None:
        # Turns are counted, and not seconds, since the loop itself may have been busy. They are
        # the same for all: so many timers would keep it busy.
        self._timer = call_later(self._seconds / _TURNS, self, Patience._turn)

    def _turn(self) -> None:
        self._timer = None
        heard, self.heard = self.heard, False
        for waiting in self._all:
            if waiting.note_turn(heard):
                waiting.fail(late("the server of a channel", self._seconds))
        if self._all:
            self._next_turn()


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
        """Somebody listens from now on, and waits if the channel isn't confirmed yet."""
        self.told[token] = told
        if not self.confirmed:
            self.waiting[token] = waiting
            waiting.missing += 1

    def remove(self, token: object) -> None:
        """Somebody listens no longer."""
        self.told.pop(token, None)
        self.waiting.pop(token, None)

    def confirm(self) -> None:
        """The server has confirmed that it sends what is published."""
        self.confirmed = True
        self._waited(Waiting.confirm)

    def fail(self, error: Exception) -> None:
        """The server won't confirm it. Those who wait get this error."""
        self._waited(lambda waiting: waiting.fail(error))

    def _waited(self, call: Callable[[Waiting], None]) -> None:
        waiting, self.waiting = self.waiting, {}
        for each in waiting.values():
            call(each)

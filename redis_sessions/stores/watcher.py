"""Who watches a record of the memory store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Watcher"]


class Watcher:
    """Who is told what is stored under one id, by the event loop in which they asked."""

    __slots__ = ("_due", "_expiry", "_look", "_loop", "_notify", "_over")

    def __init__(
        self, look: Callable[[], tuple[bytes | None, float]], notify: Callable[[bytes | None], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._look = look
        self._notify = notify
        self._due = False
        self._over = False
        self._expiry: asyncio.TimerHandle | None = None

    def wake(self) -> bool:
        """Have it look soon. Any thread may call this. False if nobody is there any more."""
        if not self._due:
            self._due = True
            try:
                self._loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # the event loop is closed
                return False
        return not self._loop.is_closed()

    def _tell(self) -> None:
        self._due = False  # first, so that what changes from now on is told as well
        if self._expiry is not None:
            self._expiry.cancel()
        if self._over:
            return
        value, seconds = self._look()
        if value is not None:
            self._expiry = self._loop.call_later(seconds, self._tell)
        self._notify(value)

    def stop(self) -> None:
        self._over = True
        if self._expiry is not None:
            self._expiry.cancel()

"""Who wants to be told when a key changes. It is read again after each notice, once for all."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from functools import partial
from typing import Any, Final

from redis_sessions.errors import StoreError

__all__ = ["Notify", "Watching"]

Notify = Callable[[bytes | None], None]

POLL: Final = 5.0
"""Seconds between two reads of all keys, where a server can't tell which of them have changed."""


BOUND: Final = 2.0
"""Seconds in which it is found out that a link is dead, where no near copies are kept."""


class Watching:
    """The keys of one event loop that are watched. `load(key)` reads one, with all that leaves.

    There are four reasons to read a key:

    1. It is watched from now on.
    2. The server has told that it changed, or this process has changed it.
    3. The link by which the server would have told was lost. If the key can't be read then, it is
       tried again three times within the bound.
    4. The server can't tell: then all keys are read every 5 seconds.
    """

    def __init__(self, load: Callable[[str], Awaitable[bytes | None]], client_cache: float) -> None:
        self._load = load
        self.keeps_copies = client_cache > 0
        """Whether near copies are kept, too."""
        self.bound = client_cache or BOUND
        """Seconds within which a server must have answered, if its silence is to mean that nothing
        has changed."""
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # that of no request
        self._watched: dict[str, dict[object, Notify]] = {}
        self._unread: dict[str, None] = {}
        self._failed = False  # whether the last read did
        self._reading: asyncio.TimerHandle | None = None
        self._silent = weakref.WeakSet[object]()  # the servers that can't tell
        self._polling: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._watched)

    def __contains__(self, key: str) -> bool:
        return key in self._watched

    def watch(self, key: str, notify: Notify) -> Callable[[], None]:
        """Have `notify` called with what is stored, now and after each change, until the end."""
        token = object()
        self._watched.setdefault(key, {})[token] = notify
        self.read([key])
        return partial(self._end, key, token)

    def _end(self, key: str, token: object) -> None:
        watchers = self._watched.get(key)
        if watchers is not None and watchers.pop(token, None) is not None and not watchers:
            del self._watched[key]
            self._unread.pop(key, None)

    def read(self, keys: Iterable[str] | None) -> None:
        """Read those of these keys again that are watched; None: all that are."""
        if not self._watched:
            return
        if keys is None:
            self._unread.update(dict.fromkeys(self._watched))
        else:
            self._unread.update((key, None) for key in keys if key in self._watched)
        if self._unread and (self._reading is None or not self._failed):
            self._read_at(0)

    def poll(self, server: object) -> None:
        """Read all keys from time to time, since this server can't tell which of them change."""
        self._silent.add(server)
        if self._polling is None:
            self._polling = self._later(POLL, Watching._poll)

    def stop_polling(self, server: object) -> None:
        """Rely on this server's notices."""
        self._silent.discard(server)

    def _poll(self) -> None:
        self._polling = None
        if self._silent and self._watched:
            self.read(None)
        if self._silent:
            self._polling = self._later(POLL, Watching._poll)

    def _read_at(self, seconds: float) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = self._later(seconds, Watching._read)

    def _later(self, seconds: float, what: Callable[[Watching], None]) -> asyncio.TimerHandle:
        me = weakref.ref(self)

        def run() -> None:
            if (here := me()) is not None:
                what(here)

        return self._loop.call_later(seconds, run, context=self._context)

    def _read(self) -> None:
        """Read what is unread; one key only, as long as reading fails."""
        self._reading = None
        keys = list(self._unread)[: 1 if self._failed else None]
        for key in keys:
            del self._unread[key]
            future = asyncio.ensure_future(self._load(key))
            future.add_done_callback(partial(self._on_read, key), context=self._context)

    def _on_read(self, key: str, future: asyncio.Future[Any]) -> None:
        if future.cancelled() or isinstance(future.exception(), StoreError):
            if key in self._watched:
                self._failed = True
                self._unread[key] = None
                if self._reading is None:
                    self._read_at(self.bound / 3)
            return
        value = future.result()
        if self._failed:
            self._failed = False
            if self._unread:
                self._read_at(0)
        for notify in list(self._watched.get(key, {}).values()):
            notify(value)

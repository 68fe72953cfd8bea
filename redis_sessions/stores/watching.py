"""Who wants to be told when a key changes. It is read again after each notice, once for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import Context
from functools import partial
from itertools import islice
from typing import Any, Final

from redis_sessions.connect.loops import call_later
from redis_sessions.errors import StoreError

__all__ = ["POLL", "Notify", "Watching"]

Notify = Callable[[bytes | None], None]

POLL: Final = 5.0
"""Seconds between two reads of all keys, where a server can't tell which of them have changed."""
BOUND: Final = 2.0
"""Seconds in which it is found out that a link is dead, where no near copies are kept."""
AT_ONCE: Final = 512
"""The most reads that are under way, so that requests needn't wait behind ten thousand of them."""


class Watching:
    """The keys of one event loop that are watched. `load(key)` reads one, with all that leaves.

    There are five reasons to read a key:

    1. It is watched from now on.
    2. The server has told that it changed, or this process has changed it.
    3. The link by which the server would have told was lost, or another server has it now.
    4. It couldn't be read, or was read where nobody tells of its changes (`read_later`). One of
       such keys is tried three times within the bound. If that succeeds, the others are read as
       well.
    5. The server can't tell: then all keys are read every 5 seconds.
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
        self._later: dict[str, None] = {}  # are read again in a moment
        self._under_way = 0
        self._reading: asyncio.TimerHandle | None = None
        self._retrying: asyncio.TimerHandle | None = None
        self._polling: asyncio.TimerHandle | None = None
        self._polls_until = float("-inf")

    def __bool__(self) -> bool:
        return bool(self._watched)

    def __contains__(self, key: str) -> bool:
        return key in self._watched

    def __iter__(self) -> Iterator[str]:
        return iter(self._watched)

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
            self._later.pop(key, None)

    def close(self) -> None:
        """Tell nobody anything any more."""
        self._watched.clear()
        self._unread.clear()
        self._later.clear()
        for timer in (self._reading, self._retrying, self._polling):
            if timer is not None:
                timer.cancel()
        self._reading = self._retrying = self._polling = None

    def read(self, keys: Iterable[str] | None) -> None:
        """Read those of these keys again that are watched; None: all that are."""
        if not self._watched:
            return
        chosen = self._watched if keys is None else filter(self._watched.__contains__, keys)
        self._unread.update(dict.fromkeys(chosen))
        self._read_soon()

    def read_later(self, key: str) -> None:
        """Read a key again in a moment, if it is watched: nobody would tell that it changes."""
        if key in self._watched:
            self._later[key] = None
            if self._retrying is None:
                self._retrying = call_later(self.bound / 3, self, Watching._retry)

    def poll(self, seconds: float) -> None:
        """Read all keys every 5 seconds for so long, since a server can't tell what changes."""
        self._polls_until = max(self._polls_until, self._loop.time() + seconds)
        if self._polling is None:
            self._polling = call_later(POLL, self, Watching._poll)

    def _poll(self) -> None:
        self._polling = None
        if self._loop.time() < self._polls_until:
            self.read(None)
            self._polling = call_later(POLL, self, Watching._poll)

    def _read_soon(self) -> None:
        if self._unread and self._reading is None and self._under_way < AT_ONCE:
            self._reading = call_later(0, self, Watching._read_all)

    def _read_all(self) -> None:
        self._reading = None
        for key in list(islice(self._unread, AT_ONCE - self._under_way)):
            del self._unread[key]
            self._later.pop(key, None)
            self._read(key)

    def _retry(self) -> None:
        self._retrying = None
        key = next(iter(self._later), None)
        if key is not None:
            del self._later[key]
            self._read(key, retries=True)

    def _read(self, key: str, *, retries: bool = False) -> None:
        self._under_way += 1
        future = asyncio.ensure_future(self._load(key))
        future.add_done_callback(partial(self._on_read, key, retries), context=self._context)

    def _on_read(self, key: str, retries: bool, future: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        self._read_soon()
        if future.cancelled() or isinstance(future.exception(), StoreError):
            self.read_later(key)
            return
        value = future.result()
        if self._later and retries:
            self._unread.update(self._later)
            self._read_soon()
        watchers = self._watched.get(key, {})
        for token, notify in list(watchers.items()):
            if token in watchers:  # one that is told may stop others
                notify(value)

"""Copies of records that one event loop has read or written lately, bounded in number and bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from redis_sessions.stores.protocols import NearCopy

__all__ = ["ENTRY", "SWAPS", "Copies", "OwnWrites", "swaps_in"]

ENTRY: Final = "cache:"
"""What the id of an entry of the cache begins with, before 32 hexadecimal digits."""

MAX_COPIES: Final = 4096
MAX_BYTES: Final = 16 * 1024 * 1024
"""The most bytes of all copies, as they are stored."""

_KIND: Final = slice(-32 - len(ENTRY), -32)
"""Where ENTRY is in a key."""


class Copies:
    """Copies by key. If there are too many, those of the cache's entries go before the sessions'.

    Of each kind the least recently used go first. All times are on one clock, and those of `put`
    never go back.
    """

    __slots__ = ("_all", "_bytes", "_entries", "_forgotten", "_since")

    def __init__(self) -> None:
        self._all: dict[str, NearCopy] = {}  # the least recently used first
        self._entries: dict[str, None] = {}  # those of them that are the cache's, in the same order
        self._bytes = 0
        self._forgotten: dict[str, float] = {}
        self._since = float("-inf")  # what was asked for earlier isn't kept, whatever its key

    def __len__(self) -> int:
        return len(self._all)

    def get(self, key: str) -> NearCopy | None:
        """A copy, which counts as used."""
        copy = self._all.pop(key, None)
        if copy is not None:
            self._all[key] = copy
            if self._entries and key in self._entries:
                self._entries[key] = self._entries.pop(key)
        return copy

    def put(self, key: str, copy: NearCopy, asked_at: float) -> None:
        """Keep a copy that was asked for at this time, unless `forget_at` says that it is older."""
        before = self._all.pop(key, None)
        if before is not None:
            self._bytes -= len(before.value)
        if asked_at <= self._since or asked_at <= self._forgotten.get(key, self._since):
            self._entries.pop(key, None)
            return
        self._all[key] = copy
        self._bytes += len(copy.value)
        if key[_KIND] == ENTRY:
            self._entries.pop(key, None)
            self._entries[key] = None
        while len(self._all) > MAX_COPIES or self._bytes > MAX_BYTES:
            self.forget(next(iter(self._entries or self._all)))

    def forget(self, key: str) -> None:
        """Forget a copy."""
        copy = self._all.pop(key, None)
        if copy is not None:
            self._bytes -= len(copy.value)
            self._entries.pop(key, None)

    def forget_at(self, key: str, now: float) -> None:
        """Forget a copy, and keep none that was asked for until now."""
        self.forget(key)
        self._forgotten[key] = now
        if len(self._forgotten) > MAX_COPIES:
            self.forget_all(None)
            self._forgotten.clear()
            self._since = now

    def answered(self, asked_at: float) -> None:
        """Note that nothing will be put that was asked for before this time."""
        if self._forgotten:
            self._forgotten = {key: at for key, at in self._forgotten.items() if at >= asked_at}

    def forget_all(self, keys: Iterable[str] | None) -> None:
        """Forget the copies of these keys; None: of all."""
        if keys is None:
            self._all.clear()
            self._entries.clear()
            self._bytes = 0
        else:
            for key in keys:
                self.forget(key)


class OwnWrites:
    """Which notices are of what was stored over the very link that they come over.

    The server tells of such a write once, right behind its reply. If it has told of the key while
    the write was under way, as it does between the replies to several commands, nobody knows whose
    notice that was. Then none is expected, and no copy is to be kept. Times are as in `Copies`.
    """

    __slots__ = ("_expected", "_told")

    def __init__(self) -> None:
        self._expected: dict[str, None] = {}
        self._told: dict[str, float] = {}

    def expect(self, key: str, asked_at: float) -> bool:
        """Expect the notice of a write that was answered. False: it may have come before."""
        told_at = self._told.get(key)
        if told_at is not None and told_at >= asked_at:
            return False
        self._expected[key] = None
        return True

    def is_told(self, key: str, now: float) -> bool:
        """Whether this notice of a key was expected. The next one won't be."""
        if key in self._expected:
            del self._expected[key]
            return True
        self._told[key] = now
        return False

    def untold(self) -> Iterable[str]:
        """The keys whose notice hasn't come before the next reply. It isn't expected any more."""
        expected, self._expected = self._expected, {}
        return expected

    def answered(self, asked_at: float) -> None:
        """Note that nothing will be expected that was asked for before this time."""
        if self._told:
            self._told = {key: at for key, at in self._told.items() if at >= asked_at}


SWAPS: Final = ("INFO", "commandstats")
"""The question how often a server has swapped databases, since it tells of no key then (SWAPDB)."""


def swaps_in(reply: Any, known: bytes | None) -> bytes | None:
    """The number in the reply to `SWAPS`, empty for none; `known` if this is no such reply."""
    if not isinstance(reply, bytes) or not reply.startswith(b"# Commandstats"):
        return known
    return reply.partition(b"cmdstat_swapdb:calls=")[2].partition(b",")[0]

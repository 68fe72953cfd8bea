"""Copies of records that one event loop has read or written lately, bounded in number and bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from redis_sessions.stores.protocols import NearCopy

__all__ = ["Copies"]

MAX_COPIES: Final = 4096
MAX_BYTES: Final = 16 * 1024 * 1024
"""The most bytes of all copies, as they are stored."""


class Copies:
    """Copies by key. The least recently used go if there are too many."""

    __slots__ = ("_all", "_bytes", "_forgotten")

    def __init__(self) -> None:
        self._all: dict[str, NearCopy] = {}  # the least recently used first
        self._bytes = 0
        # When this process has changed a key over another link.
        self._forgotten: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._all)

    def get(self, key: str) -> NearCopy | None:
        """A copy, which counts as used."""
        copy = self._all.pop(key, None)
        if copy is not None:
            self._all[key] = copy
        return copy

    def put(self, key: str, copy: NearCopy, asked_at: float) -> None:
        """Keep a copy that was asked for at this time, unless `forget_at` says that it is older."""
        self.forget(key)
        if self._forgotten:
            self._forgotten = {k: at for k, at in self._forgotten.items() if at >= asked_at}
            if key in self._forgotten:
                return
        self._all[key] = copy
        self._bytes += len(copy.value)
        while len(self._all) > MAX_COPIES or self._bytes > MAX_BYTES:
            self.forget(next(iter(self._all)))

    def forget(self, key: str) -> None:
        """Forget a copy."""
        copy = self._all.pop(key, None)
        if copy is not None:
            self._bytes -= len(copy.value)

    def forget_at(self, key: str, now: float) -> None:
        """Forget a copy, and what was asked for before now: it comes over another link."""
        self.forget(key)
        self._forgotten[key] = now

    def forget_all(self, keys: Iterable[str] | None) -> None:
        """Forget the copies of these keys; None: of all."""
        if keys is None:
            self._all.clear()
            self._bytes = 0
        else:
            for key in keys:
                self.forget(key)

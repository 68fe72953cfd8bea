"""Objects that belong to one event loop of one process, which may have forked."""

from __future__ import annotations

import asyncio
import os
import weakref
from asyncio import get_running_loop
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Generic, TypeVar

__all__ = ["PerLoop", "call_later"]

T = TypeVar("T")

_NO_LOOP: Final = (None, 0, None)


class PerLoop(Generic[T]):
    """One object for each event loop of each process, made when it is first asked for."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._all: dict[asyncio.AbstractEventLoop, tuple[int, T]] = {}
        self._last: tuple[asyncio.AbstractEventLoop | None, int, Any] = _NO_LOOP

    def get(self) -> T:
        """The running loop's object."""
        loop, forks, value = self._last
        if loop is get_running_loop() and forks == _forks:
            return value  # type: ignore[no-any-return]  # made by `_make` for this loop
        return self._find(get_running_loop())

    def pop(self) -> T | None:
        """Remove the running loop's object; None if there is none, or a parent process made it."""
        self._last = _NO_LOOP
        made, value = self._all.pop(get_running_loop(), (0, None))
        if value is not None and made != _forks:
            _inherited.append(value)
            return None
        return value

    def _find(self, loop: asyncio.AbstractEventLoop) -> T:
        # Loops of other threads come and go meanwhile. Copying a dict is one step, a list isn't.
        for known, (made, value) in self._all.copy().items():
            if made != _forks:
                _inherited.append(value)
            if made != _forks or known.is_closed():
                self._all.pop(known, None)
        if loop not in self._all:
            self._all[loop] = _forks, self._make()
        value = self._all[loop][1]
        self._last = loop, _forks, value
        return value


def call_later(seconds: float, owner: T, method: Callable[[T], None]) -> asyncio.TimerHandle:
    """Have the running loop call a method of `owner`, in the context of no request.

    It isn't called if `owner` has been collected meanwhile, nor in a process that was forked.
    """
    known, made = weakref.ref(owner), _forks

    def call() -> None:
        here = known()
        if here is not None and made == _forks:
            method(here)

    return get_running_loop().call_later(seconds, call, context=Context())


# A forked child must not touch its parent's sockets. What it inherited is kept here, since even
# collecting it would close them.
_inherited: list[object] = []
# How many forks lie between the first process and this one. Reading it costs less than `os.getpid`.
_forks = 0


def _note_fork() -> None:
    global _forks  # noqa: PLW0603 - a process has one
    _forks += 1


os.register_at_fork(after_in_child=_note_fork)

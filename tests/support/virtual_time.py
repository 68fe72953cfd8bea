"""An event loop whose time jumps to the next timer when nothing else is to be done.

So what takes hours takes milliseconds, and every run of a test goes the same way.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

__all__ = ["START", "VirtualLoop", "run"]

T = TypeVar("T")

START: Final = 1_800_000_000.0
_LONGEST: Final = 30 * 24 * 3600


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is in seconds since the epoch, and begins at `START`."""

    def __init__(self) -> None:
        super().__init__(_Selector(self._jump))
        self.now = START
        self._clock_resolution = 1e-6  # what a float of this size can tell apart

    def time(self) -> float:
        return self.now

    def _jump(self, seconds: float) -> None:
        self.now += seconds
        if self.now > START + _LONGEST:
            raise RuntimeError("the test doesn't end")


class _Selector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("nothing will ever happen in this loop")
            self._jump(max(0.0, timeout))
        return found


def run(test: Callable[[VirtualLoop], Awaitable[T]]) -> T:
    """Run a test in such a loop. A warning of asyncio, such as of a lost exception, fails it."""
    troubles: list[dict[str, Any]] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.set_exception_handler(lambda _, context: troubles.append(context))
        return await test(loop)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(main())
    assert troubles == []
    return result

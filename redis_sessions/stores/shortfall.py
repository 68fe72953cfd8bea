"""Writes that too few replicas have: the rest is carried out first, then it is told."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from redis_sessions.errors import ReplicationError

__all__ = ["Shortfall"]

T = TypeVar("T")


class Shortfall:
    """What came of several writes. A half-done sign-out would be worse than an unsure one."""

    def __init__(self) -> None:
        self.error: ReplicationError | None = None

    async def of(self, write: Awaitable[T]) -> T:
        """The result of a write, also if too few replicas have it."""
        try:
            return await write
        except ReplicationError as exc:
            self.error = exc
            result: T = exc.result
            return result

    def tell(self, result: Any = None) -> None:
        """Raise `ReplicationError` if there was one; with what is returned otherwise."""
        if self.error is not None:
            raise ReplicationError(str(self.error), result=result) from self.error

"""Several writes: if too few replicas have one, the others are made before the error is raised."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from redis_sessions.errors import ReplicationError

__all__ = ["Shortfall"]

T = TypeVar("T")


class Shortfall:
    """Collects the `ReplicationError` of several writes, so that the later ones are still made.

    A sign-out that was carried out in part would be worse than one that a failover may lose.
    """

    def __init__(self) -> None:
        self.error: ReplicationError | None = None

    async def of(self, write: Awaitable[T]) -> T:
        """The result of a write, even if too few replicas have it; then the error is kept."""
        try:
            return await write
        except ReplicationError as exc:
            self.error = exc
            result: T = exc.result
            return result

    def tell(self, result: Any = None) -> None:
        """Raise `ReplicationError` if one was kept. Its `result` is the caller's."""
        if self.error is not None:
            raise ReplicationError(str(self.error), result=result) from self.error

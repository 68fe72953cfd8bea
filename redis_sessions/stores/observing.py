"""How long batches wait, and how long the server takes for them, for somebody who measures it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from redis_sessions.connect.link import Part
from redis_sessions.connect.resp import Command

__all__ = ["BatchObserver", "Observation", "ObservedPart", "Operation"]

Operation = Literal["load", "write", "index", "replica_load", "redirected"]
"""What the items of a queue are. `redirected`: on their way to another node of a Cluster."""


class BatchObserver(Protocol):
    """Is told of each batch."""

    def on_batch(
        self,
        operation: Operation,
        size: int,
        waited: float,
        took: float,
        error: BaseException | None,
    ) -> None:
        """A batch of `size` items was answered, or failed with `error`. It mustn't raise.

        `waited`: the seconds for which the first item waited until it was sent. `took`: the seconds
        from then to the answer.
        """
        ...


class Observation:
    """Who is told of a store's batches. All queues of a store have the same one."""

    __slots__ = ("observer",)

    def __init__(self) -> None:
        self.observer: BatchObserver | None = None
        """None: nobody is."""


class ObservedPart:
    """A batch, and the observer that is told when it is answered."""

    def __init__(
        self, part: Part, observer: BatchObserver, operation: Operation, size: int, since: float
    ) -> None:
        self._part = part
        self._observer = observer
        self._operation: Operation = operation
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._sent = self._loop.time()
        self._waited = max(0.0, self._sent - since)
        self.commands: Sequence[Command] = part.commands
        self.attempts = part.attempts
        self.until = part.until

    def on_replies(self, replies: list[Any]) -> bool:
        try:
            return self._part.on_replies(replies)
        finally:
            self._tell(None)

    def on_failure(self, error: BaseException) -> None:
        self._part.on_failure(error)
        self._tell(error)

    def _tell(self, error: BaseException | None) -> None:
        took = self._loop.time() - self._sent
        self._observer.on_batch(self._operation, self._size, self._waited, took, error)

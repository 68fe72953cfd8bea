"""Group commit for commands: what arrives while a batch is under way leaves in the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final, Generic, TypeVar

from redis_sessions.errors import StoreUnavailableError

__all__ = ["Batcher", "Health"]

Item = TypeVar("Item")
Reply = TypeVar("Reply")

MAX_ITEMS: Final = 128
MAX_BYTES: Final = 256 * 1024
CAPACITY_ITEMS: Final = 16 * 1024
CAPACITY_BYTES: Final = 64 * 1024 * 1024

AWAY: Final = frozenset({"connection", "timeout"})
"""Reasons that mean that Redis is away, rather than that it refused."""


class Health:
    """Whether the store is away, as the batchers of one event loop saw it last."""

    __slots__ = ("away", "probing")

    def __init__(self) -> None:
        self.away: StoreUnavailableError | None = None
        self.probing = False


class Batcher(Generic[Item, Reply]):
    """Queues items of one event loop and sends them in batches, one batch at a time.

    `send(items)` answers with one reply, or exception, per item; what it raises is every
    item's. It runs in a task of its own: a cancelled request stops waiting, and no more.
    While the store is away one batch at a time probes it, and the rest fails at once.
    """

    __slots__ = ("_bytes", "_health", "_loop", "_queue", "_send", "_task")

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Reply | Exception]]],
        health: Health,
    ) -> None:
        self._send = send
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Item, int, asyncio.Future[Reply]]] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None

    def submit(self, item: Item, size: int) -> asyncio.Future[Reply]:
        """The future of this item's reply. `size`: its bytes, roughly."""
        health = self._health
        if health.away is not None:
            if health.probing:
                raise StoreUnavailableError(f"still away: {health.away}", reason=health.away.reason)
            health.probing = True
        if len(self._queue) >= CAPACITY_ITEMS or self._bytes + size > CAPACITY_BYTES:
            raise StoreUnavailableError(
                f"{len(self._queue)} operations are waiting in this process already",
                reason="full",
            )
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._queue.append((item, size, future))
        self._bytes += size
        if self._task is None:
            # Not eager, and in no request's context: the batch leaves at the end of the tick.
            self._task = asyncio.Task(self._run(), loop=self._loop, context=Context())
        return future

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._flush(self._take())
        finally:
            self._task = None
            self._health.probing = False
            for _, _, future in self._queue:  # only if this task was cancelled
                future.cancel()
            self._queue.clear()
            self._bytes = 0

    def _take(self) -> list[tuple[Item, asyncio.Future[Reply]]]:
        batch: list[tuple[Item, asyncio.Future[Reply]]] = []
        total = 0
        while self._queue and len(batch) < MAX_ITEMS and (not batch or total < MAX_BYTES):
            item, size, future = self._queue.popleft()
            self._bytes -= size
            if not future.done():  # nobody waits for a cancelled one, so it isn't sent
                batch.append((item, future))
                total += size
        return batch

    async def _flush(self, batch: list[tuple[Item, asyncio.Future[Reply]]]) -> None:
        if not batch:
            return
        replies: Sequence[Reply | Exception]
        try:
            replies = await self._send([item for item, _ in batch])
            self._health.away = None
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except StoreUnavailableError as exc:
            replies = [exc] * len(batch)
            if exc.reason in AWAY:
                self._health.away = exc
                batch += [(item, future) for item, _, future in self._queue]
                self._queue.clear()
                self._bytes = 0
                replies = [exc] * len(batch)
        except Exception as exc:  # noqa: BLE001 - whatever it is, those who wait get it
            replies = [exc] * len(batch)
        for (_, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

"""Group commit for commands: what arrives while a batch is under way leaves in the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.events import logger

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

    __slots__ = ("away", "probing", "trouble")

    def __init__(self) -> None:
        self.away: StoreError | None = None
        self.trouble: str | None = None  # the reason of the last failure, if nothing worked since
        self.probing = False


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item, Reply]):
    item: Item
    size: int
    future: asyncio.Future[Reply]
    since: float


class Batcher(Generic[Item, Reply]):
    """Queues items of one event loop and sends them in batches, one batch at a time.

    `send(items)` answers with one reply, or exception, per item; what it raises is every
    item's. It runs in a task of its own: a cancelled request stops waiting, and no more.
    An item waits `patience` seconds at most before it is sent. While the store is away one batch
    at a time probes it, and the rest fails at once.
    """

    __slots__ = ("_bytes", "_health", "_loop", "_patience", "_probes", "_queue", "_send", "_task")

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Reply | Exception]]],
        health: Health,
        patience: float,
    ) -> None:
        self._send = send
        self._health = health
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Waiting[Item, Reply]] = deque()
        self._bytes = 0
        self._probes = False
        self._task: asyncio.Task[None] | None = None

    def submit(self, item: Item, size: int) -> asyncio.Future[Reply]:
        """The future of this item's reply. `size`: its bytes, roughly."""
        if len(self._queue) >= CAPACITY_ITEMS or self._bytes + size > CAPACITY_BYTES:
            raise _full(f"{len(self._queue)} operations wait in this process already")
        health = self._health
        if health.away is not None:
            if health.probing:
                raise StoreUnavailableError(f"still away: {health.away}") from health.away
            health.probing = self._probes = True
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._queue.append(_Waiting(item, size, future, self._loop.time()))
        self._bytes += size
        if self._task is None:
            # Not eager, and in no request's context: the batch leaves at the end of the tick.
            self._task = asyncio.Task(self._run(), loop=self._loop, context=Context())
            self._task.add_done_callback(self._finish)
        return future

    async def _run(self) -> None:
        while self._queue:
            await self._flush(self._take())
        self._end_run()  # at once: what comes now needs another task

    def _finish(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # cancelled, perhaps before its first step
            for waiting in self._queue:
                waiting.future.cancel()
            self._queue.clear()
            self._bytes = 0
            self._end_run()

    def _end_run(self) -> None:
        self._task = None
        if self._probes:
            self._health.probing = self._probes = False

    def _take(self) -> list[_Waiting[Item, Reply]]:
        batch: list[_Waiting[Item, Reply]] = []
        total = 0
        oldest = self._loop.time() - self._patience
        while self._queue and len(batch) < MAX_ITEMS and (not batch or total < MAX_BYTES):
            waiting = self._queue.popleft()
            self._bytes -= waiting.size
            if waiting.future.done():
                continue  # nobody waits for it any more
            if waiting.since < oldest:
                waiting.future.set_exception(_full(f"it waited {self._patience:g} s in a queue"))
                continue
            batch.append(waiting)
            total += waiting.size
        return batch

    async def _flush(self, batch: list[_Waiting[Item, Reply]]) -> None:
        if not batch:
            return
        replies: Sequence[Reply | Exception]
        try:
            replies = await self._send([waiting.item for waiting in batch])
            if len(replies) != len(batch):
                raise StoreError(f"{len(replies)} replies to {len(batch)} operations")
            self._seen(None)
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.future.cancel()
            raise
        except StoreError as exc:
            self._seen(exc)
            if self._health.away is not None:
                batch.extend(self._queue)
                self._queue.clear()
                self._bytes = 0
            replies = [exc] * len(batch)
        except Exception as exc:  # noqa: BLE001 - whatever it is, those who wait get it
            replies = [exc] * len(batch)
        for waiting, reply in zip(batch, replies, strict=True):
            if waiting.future.done():
                continue
            if isinstance(reply, Exception):
                waiting.future.set_exception(reply)
            else:
                waiting.future.set_result(reply)

    def _seen(self, trouble: StoreError | None) -> None:
        """Note what became of a batch; trouble is logged when it begins, changes and ends."""
        reason = trouble.reason if isinstance(trouble, StoreUnavailableError) else None
        self._health.away = trouble if reason in AWAY else None
        before, self._health.trouble = self._health.trouble, reason
        if reason is not None and reason != before:
            logger.error("sessions: %s; requests that need one get 503", trouble)
        elif reason is None and before is not None:
            logger.warning("sessions: the store serves again")


def _full(why: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"too much load: {why}", reason="full")

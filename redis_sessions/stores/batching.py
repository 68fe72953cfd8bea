"""Batches: what arrives in one tick of the loop, or while a batch is under way, leaves together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final, Generic, TypeVar

from redis_sessions.connect.health import Health
from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.tracebacks import strip

__all__ = ["Batcher"]

Item = TypeVar("Item")
Reply = TypeVar("Reply")

MAX_ITEMS: Final = 128
"""The most items of one batch."""
MAX_BYTES: Final = 256 * 1024
"""The most bytes of one batch, roughly."""
MAX_RUNS: Final = 2
"""The most batches of one queue that are under way."""
SLOW: Final = 0.005
"""Seconds after which a batch counts as slow, so that a second one may leave beside it."""

CAPACITY_ITEMS: Final = 16 * 1024
"""The most items that wait in one queue."""
CAPACITY_BYTES: Final = 64 * 1024 * 1024
"""The most bytes that wait in one queue."""

NOBODY: Final = float("-inf")


class Batcher(Generic[Item, Reply]):
    """Queues the items of one event loop and sends them in batches.

    `send(items)` returns a reply or an exception for each item; an exception that it raises is
    each item's. It runs in a task of its own: if a request is cancelled, it no longer waits, and
    its item is sent all the same. An item waits `patience` seconds at most before it is sent.

    There are three cases for an item that arrives:

    1. No batch is under way, or the one that is takes long: a new batch leaves at the end of this
       tick of the loop. A slow batch doesn't hold up the others.
    2. A batch is under way: the item leaves with the next one.
    3. The store is away: one batch at a time finds out whether it is back, and all other items
       fail at once.
    """

    __slots__ = (
        *("_alone", "_bytes", "_health", "_left", "_loop", "_patience", "_probes", "_queue"),
        *("_runs", "_send", "_size", "reply_size"),
    )

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
        # Of each item: the item, its bytes, the future of its reply, and since when it waits.
        self._queue: deque[tuple[Item, int, asyncio.Future[Reply], float]] = deque()
        self._bytes = 0
        self._probes = False  # whether it is a batch of this queue that finds out
        self._runs: set[asyncio.Task[None]] = set()
        self._left = 0.0  # when the last batch left
        self._size = 0  # how many were in it
        self.reply_size = 0
        """Bytes of a reply, roughly. They count for the size of a batch, not of the queue."""
        self._alone = NOBODY  # since when an item is under way that didn't queue

    def ask(self, item: Item, size: int) -> Awaitable[Reply]:
        """As `submit`, but faster if requests come one by one: then the item doesn't queue.

        What is returned runs in the caller's task, and must be awaited.
        """
        if self._size == 1 and not self._runs and self._health.trouble is None:
            now = self._loop.time()
            # One at a time. If such a coroutine is never awaited, it counts until it would be over.
            if now - self._alone > 2 * self._patience:
                self._alone = now
                return self._send_alone(item)
        return self.submit(item, size)

    def submit(self, item: Item, size: int) -> asyncio.Future[Reply]:
        """The future of this item's reply; never raises. `size`: its bytes, roughly."""
        queue, loop = self._queue, self._loop
        future: asyncio.Future[Reply] = loop.create_future()
        if len(queue) >= CAPACITY_ITEMS or self._bytes + size > CAPACITY_BYTES:
            future.set_exception(_full(f"{len(queue)} operations wait in this process already"))
            return future
        if self._health.away is not None and not self._may_probe():
            away = StoreUnavailableError(f"still away: {self._health.away}")
            # Not that error itself: it has the traceback of the request that it was raised in.
            away.__cause__ = self._health.away.__cause__
            future.set_exception(away)
            return future
        self._bytes += size
        now = loop.time()
        queue.append((item, size, future, now))
        if not self._runs or (now - self._left > SLOW and len(self._runs) < MAX_RUNS):
            # The task isn't eager, so that the batch leaves at the end of the tick; and it has no
            # request's context.
            run = asyncio.Task(self._run(), loop=loop, context=Context())
            self._left = now
            self._runs.add(run)
            run.add_done_callback(self._finish)
        return future

    def _may_probe(self) -> bool:
        if self._health.probing:
            return False
        self._health.probing = self._probes = True
        return True

    async def _send_alone(self, item: Item) -> Reply:
        try:
            (reply,) = await self._send([item])
        except StoreError as exc:
            self._health.note(exc, self)
            raise
        finally:
            self._alone = NOBODY
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _run(self) -> None:
        while self._queue:
            await self._flush(self._next_batch())
        if (this := asyncio.current_task()) is not None:
            self._end_run(this)  # now: an item that comes before `_finish` needs another task

    def _finish(self, run: asyncio.Task[None]) -> None:
        if run in self._runs:  # it was cancelled, perhaps before its first step
            for _, _, future, _ in self._queue:
                future.cancel()
            self._queue.clear()
            self._bytes = 0
            self._end_run(run)

    def _end_run(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        if self._probes and not self._runs:
            self._health.probing = self._probes = False

    def _next_batch(self) -> tuple[list[Item], list[asyncio.Future[Reply]]]:
        queue, total = self._queue, 0
        items: list[Item] = []
        futures: list[asyncio.Future[Reply]] = []
        self._left = self._loop.time()
        oldest = self._left - self._patience
        while queue and len(items) < MAX_ITEMS and (not items or total < MAX_BYTES):
            item, size, future, since = queue.popleft()
            self._bytes -= size
            if future.done():
                pass  # nobody waits for it any more
            elif since < oldest:
                future.set_exception(_full(f"it waited {self._patience:g} s in a queue"))
            else:
                items.append(item)
                futures.append(future)
                total += size + self.reply_size
        self._size = len(items)
        return items, futures

    async def _flush(self, batch: tuple[list[Item], list[asyncio.Future[Reply]]]) -> None:
        items, futures = batch
        if not items:
            return
        replies: Sequence[Reply | Exception]
        try:
            replies = await self._send(items)
            if len(replies) != len(items):
                raise StoreError(f"{len(replies)} replies to {len(items)} operations")
            refused = next((r for r in replies if isinstance(r, StoreUnavailableError)), None)
            if refused is not None or self._health.trouble is not None:
                self._health.note(refused, self)
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
            raise
        except StoreError as exc:
            strip(exc)  # many requests raise it, and asyncio logs it if no request waits any more
            self._health.note(exc, self)
            if self._health.away is not None:
                futures.extend(future for _, _, future, _ in self._queue)
                self._queue.clear()
                self._bytes = 0
            replies = [exc] * len(futures)
        except Exception as exc:  # noqa: BLE001 - those who wait get it, whatever it is
            strip(exc)
            replies = [exc] * len(futures)
        for future, reply in zip(futures, replies, strict=True):
            if future.done():
                pass
            elif isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)


def _full(why: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"too much load: {why}", reason="full")

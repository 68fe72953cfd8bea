"""Group commit for commands: what arrives while a batch is under way leaves in the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final, Generic, TypeVar

from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.events import logger
from redis_sessions.tracebacks import strip

__all__ = ["Batcher", "Health"]

Item = TypeVar("Item")
Reply = TypeVar("Reply")

MAX_ITEMS: Final = 128
MAX_BYTES: Final = 256 * 1024
MAX_RUNS: Final = 2
SLOW: Final = 0.005
"""Seconds after which a batch counts as slow."""

NOBODY: Final = float("-inf")

CAPACITY_ITEMS: Final = 16 * 1024
CAPACITY_BYTES: Final = 64 * 1024 * 1024

AWAY: Final = frozenset({"connection", "timeout", "protocol"})
"""Reasons that mean that Redis is away, rather than that it refused."""


class Health:
    """Whether the store is away, as the batchers of one event loop saw it last."""

    __slots__ = ("_whose", "away", "probing", "quiet", "trouble")

    def __init__(self) -> None:
        self.away: StoreError | None = None
        self.trouble: str | None = None  # the last failure's reason, until `seen` ends it
        self.probing = False
        self.quiet = False
        """Whether somebody else tells of trouble that begins now."""
        self._whose: object = None

    def seen(self, trouble: StoreError | None, by: object = None) -> None:
        """Note what became of a batch; trouble is logged when it begins, changes and ends.

        Whatever is answered shows that the store isn't away. But writes that are refused are
        so until one isn't, though reading goes on: `by` is which kind of batch it was.
        """
        reason = trouble.reason if isinstance(trouble, StoreUnavailableError) else None
        if reason is None and self.away is None and by is not self._whose:
            return
        self._whose = by
        self.away = trouble if reason in AWAY else None
        before, self.trouble = self.trouble, reason
        if reason is not None and reason != before:
            if not self.quiet:
                self.begins(trouble)
        elif reason is None and before is not None:
            self.ends()

    def begins(self, trouble: StoreError | None) -> None:
        """Log that there is trouble, or another one."""
        logger.error("sessions: %s; requests that need one get 503", trouble)

    def ends(self) -> None:
        """Log that there is none any more."""
        logger.warning("sessions: the store serves again")


class Batcher(Generic[Item, Reply]):
    """Queues items of one event loop and sends them in batches, one batch at a time.

    `send(items)` answers with one reply, or exception, per item; what it raises is every
    item's. It runs in a task of its own: a cancelled request stops waiting, and no more.
    An item waits `patience` seconds at most before it is sent. While the store is away one batch
    at a time probes it, and the rest fails at once. Where a batch takes long, a second one leaves
    beside it, so that what is slow doesn't hold up the rest.
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
        # Each item, its bytes, the future of its reply, since when it waits.
        self._queue: deque[tuple[Item, int, asyncio.Future[Reply], float]] = deque()
        self._bytes = 0
        self._probes = False
        self._runs: set[asyncio.Task[None]] = set()
        self._left = 0.0  # when the last batch left
        self._size = 0  # how many were in it
        self.reply_size = 0
        """Bytes of a reply, as far as is known: they bound a batch, not what may wait."""
        self._alone = NOBODY  # since when an item is under way without a queue

    def ask(self, item: Item, size: int) -> Awaitable[Reply]:
        """As `submit`; but where requests come one by one, this one needn't queue.

        What is returned runs in the caller's task, and must be awaited.
        """
        if self._size == 1 and not self._runs and self._health.trouble is None:
            now = self._loop.time()
            # One at a time; a coroutine that was never awaited counts no longer than it could last.
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
            # Not that error itself: who met it first has raised it, and its traceback is theirs.
            away.__cause__ = self._health.away.__cause__
            future.set_exception(away)
            return future
        self._bytes += size
        now = loop.time()
        queue.append((item, size, future, now))
        if not self._runs or (now - self._left > SLOW and len(self._runs) < MAX_RUNS):
            # Not eager, and in no request's context: the batch leaves at the end of the tick.
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
            self._health.seen(exc, self)
            raise
        finally:
            self._alone = NOBODY
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _run(self) -> None:
        while self._queue:
            await self._flush(self._take())
        if (this := asyncio.current_task()) is not None:
            self._end_run(this)  # at once: what comes now needs another task

    def _finish(self, run: asyncio.Task[None]) -> None:
        if run in self._runs:  # cancelled, perhaps before its first step
            for _, _, future, _ in self._queue:
                future.cancel()
            self._queue.clear()
            self._bytes = 0
            self._end_run(run)

    def _end_run(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        if self._probes and not self._runs:
            self._health.probing = self._probes = False

    def _take(self) -> tuple[list[Item], list[asyncio.Future[Reply]]]:
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
                self._health.seen(refused, self)
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
            raise
        except StoreError as exc:
            strip(exc)  # it is told to many, and to the log where nobody waits any more
            self._health.seen(exc, self)
            if self._health.away is not None:
                futures.extend(future for _, _, future, _ in self._queue)
                self._queue.clear()
                self._bytes = 0
            replies = [exc] * len(futures)
        except Exception as exc:  # noqa: BLE001 - whatever it is, those who wait get it
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

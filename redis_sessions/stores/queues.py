"""Queues: the items of one kind wait here until they leave, and have their replies from here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any, Final, Generic, TypeVar

from redis_sessions.connect.health import Health
from redis_sessions.connect.link import Part
from redis_sessions.connect.resp import Command
from redis_sessions.connect.sender import Sender
from redis_sessions.errors import StoreError, StoreUnavailableError, afresh
from redis_sessions.stores.observing import Observation, ObservedPart, Operation
from redis_sessions.tracebacks import strip

__all__ = ["ItemQueue"]

_done: Final = methodcaller("done")

_UNOBSERVED: Final = Observation()

Item = TypeVar("Item")
Reply = TypeVar("Reply")

MAX_ITEMS: Final = 128
"""The most items of one batch."""
MAX_BYTES: Final = 256 * 1024
"""The most bytes of one batch, roughly."""

CAPACITY_ITEMS: Final = 16 * 1024
"""The most items that wait in one queue."""
CAPACITY_BYTES: Final = 64 * 1024 * 1024
"""The most bytes that wait in one queue."""


class ItemQueue(Generic[Item, Reply]):
    """The items of one kind that wait for `sender`, which sends them in batches.

    `commands(items)` writes a batch. `read(items, replies)` returns a reply or an exception for
    each item; an exception that it raises is each item's. If a request is cancelled, it no longer
    waits, and nothing else happens. An item waits `patience` seconds at most before it is sent.
    While the store is away, one item at a time finds out whether it is back, and the others fail
    at once. `observation` says who is told of each batch, and `operation` as what.
    """

    __slots__ = (
        *("_bytes", "_commands", "_futures", "_health", "_loop", "_observation", "_operation"),
        *("_patience", "_probes", "_read", "_sender", "_since", "items", "reply_size"),
    )

    def __init__(
        self,
        sender: Sender,
        commands: Callable[[Sequence[Item]], list[Command]],
        read: Callable[[Sequence[Item], list[Any]], Sequence[Reply | Exception]],
        health: Health,
        patience: float,
        observation: Observation = _UNOBSERVED,
        operation: Operation = "index",
    ) -> None:
        self._sender = sender
        self._commands = commands
        self._read = read
        self._health = health
        self._patience = patience
        self._observation = observation
        self._operation: Operation = operation
        self._loop = asyncio.get_running_loop()
        self.items: list[Item] = []
        """What waits."""
        # Of each of them: the future of its reply, and since when it waits.
        self._futures: list[asyncio.Future[Reply]] = []
        self._since: list[float] = []
        self._bytes = 0
        self._probes = False  # whether it is an item of this queue that finds out
        self.reply_size = 0
        """Bytes of a reply, roughly. They count for the size of a batch, not of the queue."""
        sender.queues.append(self)

    def submit(self, item: Item, size: int) -> asyncio.Future[Reply]:
        """The future of this item's reply; never raises. `size`: its bytes, roughly."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        items = self.items
        if len(items) >= CAPACITY_ITEMS or self._bytes + size > CAPACITY_BYTES:
            future.set_exception(_full(f"{len(items)} operations wait in this process already"))
            return future
        if self._health.away is not None and not self._may_probe():
            away = StoreUnavailableError(f"still away: {self._health.away}")
            # Not that error itself: it has the traceback of the request that it was raised in.
            away.__cause__ = self._health.away.__cause__
            future.set_exception(away)
            return future
        self._bytes += size
        items.append(item)
        self._futures.append(future)
        self._since.append(self._loop.time())
        if not self._sender.waking:
            self._sender.wake()
        return future

    def _may_probe(self) -> bool:
        if self._health.probing:
            return False
        self._health.probing = self._probes = True
        return True

    def next_part(self, now: float) -> Part | None:
        """The items that leave next; None if nobody waits for one of them any more."""
        count = self._fitting()
        items, futures = self.items[:count], self._futures[:count]
        until = self._since[0] + self._patience
        late = until < now
        since = self._since[:count] if late else ()
        self._remove(count)
        if since:
            for future, at in zip(futures, since, strict=True):
                if at < now - self._patience and not future.done():
                    future.set_exception(_full(f"it waited {self._patience:g} s in a queue"))
        if any(map(_done, futures)):  # nobody waits for these any more
            pairs = [(i, f) for i, f in zip(items, futures, strict=True) if not f.done()]
            items, futures = [item for item, _ in pairs], [future for _, future in pairs]
        if items:
            try:
                # No item leaves later than this after it was asked for: see `stores.deadline`.
                batch = _Batch(self, items, futures, self._commands(items), now if late else until)
            except Exception as exc:  # noqa: BLE001 - those who wait get it, whatever it is
                self.settle(futures, exc)
                return None
            observer = self._observation.observer
            if observer is None:
                return batch
            began = until - self._patience
            return ObservedPart(batch, observer, self._operation, len(items), began)
        self.end_probe()
        return None

    def _fitting(self) -> int:
        """How many of the items that wait fit into one batch, at least one."""
        waiting = len(self.items)
        total = self._bytes + waiting * self.reply_size
        count = waiting if total <= MAX_BYTES else max(1, waiting * MAX_BYTES // total)
        return min(count, MAX_ITEMS)

    def _remove(self, count: int) -> None:
        waiting = len(self.items)
        if count == waiting:
            self._bytes = 0
            self.items, self._futures, self._since = [], [], []
        else:
            self._bytes -= self._bytes * count // waiting  # roughly
            for each in (self.items, self._futures, self._since):
                del each[:count]

    def wait_from(self, now: float) -> None:
        """Have the time for which items may wait begin now."""
        self._since = [now] * len(self.items)

    def fail(self, error: BaseException) -> None:
        """Let all that wait fail."""
        futures = self._futures
        if futures:
            self._remove(len(futures))
            self.settle(futures, error)

    # -- what became of a batch

    def settle(self, futures: Sequence[asyncio.Future[Reply]], error: BaseException) -> None:
        """Let all of them fail. An error that isn't an `Exception` cancels them."""
        if isinstance(error, StoreError):
            self._health.note(error, self)
        strip(error)  # asyncio logs it if no request waits any more
        for future in futures:
            if future.done():
                pass
            elif isinstance(error, Exception):
                own = afresh(error) if isinstance(error, StoreError) else error
                future.set_exception(own)
            else:
                future.cancel()
        self.end_probe()

    def answer(
        self, items: Sequence[Item], futures: Sequence[asyncio.Future[Reply]], replies: list[Any]
    ) -> bool:
        """Give each item its reply. False if no Redis gives such a reply."""
        try:
            answers = self._read(items, replies)
            if len(answers) != len(items):
                raise StoreError(f"{len(answers)} replies to {len(items)} operations")
        except Exception as exc:  # noqa: BLE001 - those who wait get it, whatever it is
            self.settle(futures, exc)
            return getattr(exc, "reason", None) != "protocol"
        trouble: StoreUnavailableError | None = None
        for future, answer in zip(futures, answers, strict=True):
            if not isinstance(answer, Exception):
                if not future.done():
                    future.set_result(answer)
                continue
            if trouble is None and isinstance(answer, StoreUnavailableError):
                trouble = answer
            if not future.done():
                future.set_exception(answer)
        if trouble is not None or self._health.trouble is not None:
            self._health.note(trouble, self)
        self.end_probe()
        return trouble is None or trouble.reason != "protocol"

    def end_probe(self) -> None:
        """Let another item find out whether the store is back."""
        if self._probes:
            self._health.probing = self._probes = False


class _Batch(Generic[Item, Reply]):
    """Items that leave in one piece."""

    __slots__ = ("_futures", "_items", "_queue", "attempts", "commands", "until")

    def __init__(
        self,
        queue: ItemQueue[Item, Reply],
        items: Sequence[Item],
        futures: Sequence[asyncio.Future[Reply]],
        commands: Sequence[Command],
        until: float,
    ) -> None:
        self._queue = queue
        self._items = items
        self._futures = futures
        self.commands = commands
        self.attempts = 0
        self.until = until

    def on_replies(self, replies: list[Any]) -> bool:
        return self._queue.answer(self._items, self._futures, replies)

    def on_failure(self, error: BaseException) -> None:
        self._queue.settle(self._futures, error)


def _full(why: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"too much load: {why}", reason="full")

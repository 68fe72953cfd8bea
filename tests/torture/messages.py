"""Messages while the primary changes again and again: whose they are, and which gaps are told.

Each user listens in two processes (stores of their own), and each of two other processes sends to
half of the users. A message has its user and a number that grows. What couldn't be sent for sure
counts as no gap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from redis.exceptions import RedisError

from redis_sessions import RedisStore, StoreError
from redis_sessions.messages import Messages, Missed
from redis_sessions.testing.topology import SentinelTopology, sentinel
from tests.support.asgi import KEY
from tests.support.deployments import until
from tests.support.servers import SERVERS, app_user, as_app

USERS: Final = 20
PAUSE: Final = 1.0
"""Seconds between two failovers."""
SETTLED: Final = 8.0
"""Seconds after which the last `Missed` has come: two time-outs, and more."""
FAULTS: Final = ("failover", "frozen", "killed")


@dataclass
class Result:
    """What the listeners got."""

    sent: int = 0
    unsure: int = 0
    """Messages whose sender got an error."""
    faults: list[str] = field(default_factory=list[str])
    heard: int = 0
    missed: int = 0
    """How often a `Missed` came."""
    gaps: int = 0
    late: int = 0
    """Gaps that were told after what came behind them, and how late at most."""
    latest: float = 0.0
    wrong: list[str] = field(default_factory=list[str])
    """Messages of others, or that came twice or in another order; and gaps that nobody told."""

    def __str__(self) -> str:
        return (
            f"{self.sent} messages ({self.unsure} unsure) over {len(self.faults)} changes of the "
            f"primary ({', '.join(self.faults)}): {self.heard} arrived, {self.missed} times "
            f"Missed, {self.gaps} gaps, of which {self.late} were told at most {self.latest:.1f} s "
            f"after the next message; wrong: {self.wrong[:5] or 'nothing'}"
        )


Got = list[tuple[int | None, float]]


async def run(messages: int = 100_000, faults: Sequence[str] = FAULTS * 3) -> Result:
    """Send so many, change the primary so often meanwhile, and see what came."""
    options = app_user(replicas=True)
    context = sentinel(replicas=1, down_after_ms=500, server=SERVERS["redis"], options=options)
    running = await asyncio.to_thread(context.__enter__)
    try:
        return await _run(running, messages, faults)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def _run(running: SentinelTopology, messages: int, faults: Sequence[str]) -> Result:
    result, url = Result(), as_app(running.url)
    stores = [RedisStore(url, timeout=1) for _ in range(4)]
    listening, sending = [[Messages(s, KEY) for s in half] for half in (stores[:2], stores[2:])]
    unsure = [set[int]() for _ in range(USERS)]
    counts = [0] * USERS
    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        got = dict[tuple[int, int], Got]()
        async with asyncio.TaskGroup() as group:
            tasks = list[asyncio.Task[None]]()
            for place, each in enumerate(listening):
                for user in range(USERS):
                    heard = await stack.enter_async_context(each.listen(principal=user))
                    got[user, place] = items = Got()
                    tasks.append(group.create_task(_listen(user, heard, items, result)))
            senders = [
                group.create_task(_send(sending[user % 2], user, counts, unsure[user], over))
                for user in range(USERS)
            ]
            await _disturb(running, faults, result, counts, messages)
            over.set()
            await asyncio.wait(senders)
            await asyncio.sleep(SETTLED)
            for task in tasks:
                task.cancel()
    for store in stores:
        await store.close()
    result.sent, result.unsure = sum(counts), sum(map(len, unsure))
    for (user, place), items in got.items():
        _judge(f"user {user} in process {place}", items, counts[user], unsure[user], result)
    return result


async def _send(
    messages: Messages, user: int, counts: list[int], unsure: set[int], over: asyncio.Event
) -> None:
    while not over.is_set():
        counts[user] += 1
        try:
            await messages.to_principal(user, {"user": user, "n": counts[user]})
        except StoreError:
            unsure.add(counts[user])
            await asyncio.sleep(0.05)


async def _listen(user: int, heard: Any, items: Got, result: Result) -> None:
    async for message in heard:
        now = time.monotonic()
        if isinstance(message, Missed):
            items.append((None, now))
        elif message["user"] == user:
            items.append((message["n"], now))
        else:
            result.wrong.append(f"user {user} got {message}")


async def _disturb(
    running: SentinelTopology, faults: Sequence[str], result: Result, counts: list[int], most: int
) -> None:
    """Change the primary at equal distances, until so many messages were sent."""
    for number, fault in enumerate(faults, 1):
        due = most * number // (len(faults) + 1)
        while sum(counts) < due:  # noqa: ASYNC110 - no message is worth an event
            await asyncio.sleep(0.05)
        await _change(running, fault)
        result.faults.append(fault)
        await asyncio.sleep(PAUSE)
    while sum(counts) < most:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.05)


async def _change(running: SentinelTopology, fault: str) -> None:
    before = running.primary
    if fault == "failover":
        await until(partial(_failed_over, running))
        return
    if fault == "frozen":
        before.pause()
    else:
        before.kill()
    await asyncio.to_thread(running.wait_promoted, before)
    if fault == "frozen":
        before.resume()
    else:
        await asyncio.to_thread(before.start)

    async def follows() -> bool:
        with suppress(RedisError):
            return await asyncio.to_thread(before.role) == "replica"
        return False

    await until(follows)


async def _failed_over(running: SentinelTopology) -> bool:
    with suppress(RedisError):  # the Sentinels don't trust the replica yet
        await asyncio.to_thread(running.failover)
        return True
    return False


def _judge(who: str, items: Got, last: int, unsure: set[int], result: Result) -> None:
    """Count what one listener got, and whether each gap was told: before the next one, or later."""
    known = 0
    told = False  # since the last message
    ends = items[-1][1] if items else 0.0
    for index, (n, at) in enumerate([*items, (last + 1, ends)]):
        if n is None:
            result.missed += 1
            told = True
            continue
        if n <= known:
            result.wrong.append(f"{who}: {n} came after {known}")
            continue
        if not set(range(known + 1, n)) <= unsure:
            result.gaps += 1
            later = next((t for m, t in items[index:] if m is None), None)
            if not told and later is None:
                result.wrong.append(f"{who}: nobody told of {known + 1} to {n - 1}")
            elif not told and later is not None:
                result.late += 1
                result.latest = max(result.latest, later - at)
        known, told = n, False
    result.heard += sum(n is not None for n, _ in items)

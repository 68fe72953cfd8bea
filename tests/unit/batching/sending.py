"""A batcher, and what it sends to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest

from redis_sessions import StoreUnavailableError
from redis_sessions.connect.health import Health
from redis_sessions.stores.batching import Batcher

LONGEST: Final = 5.0  # what a reply that never comes is waited for


class Sending:
    """A batcher, and what it sends to: that echoes, fails, falls short, or is held up."""

    def __init__(self, health: Health | None = None, patience: float = 2.0) -> None:
        self.health = health or Health()
        self.batcher = Batcher[str, str](self._send, self.health, patience)
        self.batches: list[list[str]] = []
        self.fails: Exception | None = None
        self.replies: list[str | Exception] | None = None
        self.sent = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def _send(self, items: Sequence[str]) -> Sequence[str | Exception]:
        self.batches.append(list(items))
        self.sent.set()
        await self.go_on.wait()
        if self.fails is not None:
            raise self.fails
        return items if self.replies is None else self.replies

    async def hold_up(self, item: str) -> asyncio.Future[str]:
        """Submit what is on its way until `go_on` is set."""
        self.sent.clear()
        self.go_on.clear()
        future = self.batcher.submit(item, 1)
        await self.sent.wait()
        return future

    async def reply(self, item: str, size: int = 1) -> str:
        async with asyncio.timeout(LONGEST):
            return await self.batcher.submit(item, size)

    async def go_away(self) -> None:
        """Have a batch find the store away."""
        self.fails = StoreUnavailableError("away")
        with pytest.raises(StoreUnavailableError, match=r"^away$"):
            await self.reply("x")
        self.fails = None
        assert self.health.away is not None

    async def assert_serves(self) -> None:
        replies = await asyncio.gather(*map(self.reply, ("one", "two")))
        assert replies == ["one", "two"]
        assert self.health.away is None
        assert not self.health.probing


async def cancelled(future: asyncio.Future[str]) -> bool:
    """Whether waiting for it ended by its cancellation."""
    await asyncio.wait([future], timeout=LONGEST)
    return future.cancelled()

"""A queue, and the link over which it asks a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from redis.exceptions import RedisError

from redis_sessions import StoreUnavailableError
from redis_sessions.connect.connector import connector_of
from redis_sessions.connect.dialer import Dialer
from redis_sessions.connect.failures import translate
from redis_sessions.connect.health import Health
from redis_sessions.connect.resp import Command
from redis_sessions.connect.sender import Sender
from redis_sessions.stores.queues import ItemQueue
from tests.support.proxy import Proxy

LONGEST: Final = 20.0
"""Seconds after which a reply counts as one that never comes."""
AWAY: Final = "didn't answer|can't be reached"


Commands = Callable[[Sequence[str]], list[Command]]
Read = Callable[[Sequence[str], list[Any]], list[Any]]


class Asking:
    """A queue whose items are words that a server echoes; `!` is refused.

    `sender` shares another one's link.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float = 2.0,
        patience: float | None = None,
        health: Health | None = None,
        sender: Sender | None = None,
        scripts: Sequence[Any] = (),
    ) -> None:
        self.dialer = Dialer(connector_of(url, timeout=seconds))
        self.sender = sender or Sender(self.dialer, seconds, scripts)
        self.health = health or Health()
        self.queue = ItemQueue[str, Any](
            self.sender,
            lambda items: self.commands(items),  # noqa: PLW0108 - a test may replace it
            lambda items, replies: self.read(items, replies),  # noqa: PLW0108 - as well
            self.health,
            patience or seconds,
        )
        self.commands: Commands = self._commands
        self.read: Read = lambda _, replies: list(map(_answer, replies))
        self.batches: list[list[str]] = []
        """What has left, or would have."""

    def _commands(self, items: Sequence[str]) -> list[Command]:
        self.batches.append(list(items))
        return [("NONE",) if item == "!" else ("ECHO", item) for item in items]

    def submit(self, *items: str, size: int = 1) -> list[asyncio.Future[Any]]:
        return [self.queue.submit(item, size) for item in items]

    async def replies(self, *items: str) -> list[Any]:
        """What is answered to these at once."""
        return await answers(*self.submit(*items))

    async def submit_and_send(self, *items: str) -> list[asyncio.Future[Any]]:
        """The same as `submit`; if the link is there, they leave before this returns."""
        futures = self.submit(*items)
        await asyncio.sleep(0)
        return futures

    async def assert_serves(self) -> None:
        """Whatever was before, now one may find out, and all are served."""
        if self.health.away is not None:
            assert await self.replies("probe") == [b"probe"]
        assert await self.replies("one", "two") == [b"one", b"two"]
        assert self.health.away is None
        assert not self.health.probing

    async def close(self) -> None:
        await self.sender.close()
        await self.dialer.close()


def _answer(reply: Any) -> Any:
    return translate("server", reply) if isinstance(reply, RedisError) else reply


async def answers(*futures: asyncio.Future[Any]) -> list[Any]:
    """Each one's reply, or its exception."""
    async with asyncio.timeout(LONGEST):
        return await asyncio.gather(*futures, return_exceptions=True)


async def go_away(at: Asking, proxy: Proxy) -> None:
    """Have an item find out that nobody listens."""
    proxy.cut()
    with pytest.raises(StoreUnavailableError, match=AWAY):
        await at.submit("x")[0]
    assert at.health.away is not None


def drop(proxy: Proxy) -> None:
    """Close all connections; new ones are accepted."""
    proxy.cut()
    proxy.heal()

"""What a server tells by itself: which keys under a prefix have changed (`CLIENT TRACKING BCAST`).

A link of its own to each primary, over RESP3. Nothing is stored for it in the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final

from redis import exceptions as errors

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.dialer import Dialer
from redis_sessions.connect.failures import FAILURES, late, translate
from redis_sessions.connect.link import Link, Part
from redis_sessions.connect.resp import Command
from redis_sessions.errors import StoreError
from redis_sessions.stores.redis import RedisStore, servers_of

__all__ = ["Notices", "notices_of"]

_EVERY: Final = 5.0
"""Seconds between two questions whether a server is still there."""

Item = Sequence[bytes] | StoreError | None


class _Question:
    """Commands whose replies somebody awaits."""

    attempts = 0
    until = float("-inf")

    def __init__(self, *commands: Command) -> None:
        self.commands: Sequence[Command] = commands
        self.replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def on_replies(self, replies: list[Any]) -> bool:
        if not self.replies.done():
            self.replies.set_result(replies)
        return True

    def on_failure(self, error: BaseException) -> None:
        if not self.replies.done():
            self.replies.set_exception(error)


class Notices:
    """The notices of one primary. They are put into `into`.

    An item is the keys that changed; None, if all may have (FLUSHALL); or the error by which the
    link was lost. After that nothing comes any more.
    """

    def __init__(self, connector: Connector, into: asyncio.Queue[Item]) -> None:
        self._dialer = Dialer(connector)
        self._timeout = connector.timeout
        self._into = into
        self._link: Link | None = None
        self._beating: asyncio.Task[None] | None = None

    async def begin(self, prefix: str) -> None:
        """Have the server tell; `StoreError` if it can't, or the user may not ask for it."""
        where = self._dialer.where
        try:
            self._link = await self._dialer.open(self, self._timeout)
            replies = await self._ask(
                ("HELLO", 3), ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
            )
        except FAILURES as exc:
            raise self._error(exc) from exc
        for reply in replies:
            if isinstance(reply, errors.RedisError):
                raise translate(where, reply) from reply
        self._beating = asyncio.create_task(self._beat())

    async def close(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        await self._dialer.close()

    async def _ask(self, *commands: Command) -> list[Any]:
        assert self._link is not None
        question, now = _Question(*commands), asyncio.get_running_loop().time()
        self._link.send([question], now, now + self._timeout)
        return await question.replies

    async def _beat(self) -> None:
        """Ask again and again: of a server that is cut off nothing would come, and no error."""
        with suppress(*FAILURES):  # the link is lost, and `on_lost` has told it
            while True:
                await asyncio.sleep(_EVERY)
                await self._ask(("PING",))

    def _error(self, exc: Exception) -> StoreError:
        if isinstance(exc, TimeoutError):
            return late(self._dialer.where, self._timeout)
        return translate(self._dialer.where, exc)

    # -- LinkOwner

    def on_replies(self, link: Link, parts: Sequence[Part], replies: list[Any]) -> None:
        for part in parts:
            part.on_replies(replies)

    def on_push(self, link: Link, message: Any) -> None:
        if message and message[0] == b"invalidate":
            self._into.put_nowait(message[1])

    def on_lost(self, link: Link, parts: Sequence[Part], error: Exception) -> None:
        for part in parts:
            part.on_failure(error)
        self._into.put_nowait(self._error(error))


@asynccontextmanager
async def notices_of(store: RedisStore) -> AsyncGenerator[asyncio.Queue[Item]]:
    """The notices of all primaries, which have begun."""
    queue = asyncio.Queue[Item]()
    begun = dict[str, Notices]()
    try:
        async with aclosing(servers_of(store).primaries()) as primaries:
            async for connector, _ in primaries:
                if connector.where not in begun:
                    begun[connector.where] = notices = Notices(connector, queue)
                    await notices.begin(store.prefix)
        yield queue
    finally:
        for notices in begun.values():
            await notices.close()

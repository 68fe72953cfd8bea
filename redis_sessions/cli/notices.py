"""What a server tells by itself: which keys under a prefix have changed (`CLIENT TRACKING BCAST`).

A link of its own to each primary, over RESP3. Nothing is stored for it in the server. In a Cluster
the primaries are asked for again and again.
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
"""Seconds between two questions whether a server is still there, and who the primaries are."""

Item = Sequence[bytes] | str | StoreError | None
"""The keys that changed; the name of a primary that is watched from now on, and wasn't before; the
error by which a link was lost, after which nothing comes any more; or None: all may have changed.
"""


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
    """The notices of one primary. They are put into `into`."""

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
        self._link = None
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
        if link is self._link:
            self._into.put_nowait(self._error(error))


@asynccontextmanager
async def notices_of(store: RedisStore) -> AsyncGenerator[asyncio.Queue[Item]]:
    """The notices of all primaries, which have begun, and of those that come later."""
    queue = asyncio.Queue[Item]()
    begun = dict[str, Notices]()
    following: asyncio.Task[None] | None = None
    try:
        await _begin(store, queue, begun)
        following = asyncio.create_task(_follow(store, queue, begun))
        yield queue
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
        for notices in begun.values():
            await notices.close()


async def _follow(store: RedisStore, queue: asyncio.Queue[Item], begun: dict[str, Notices]) -> None:
    try:
        while True:
            await asyncio.sleep(_EVERY)
            for where in await _begin(store, queue, begun):
                queue.put_nowait(where)
    except StoreError as exc:
        queue.put_nowait(exc)


async def _begin(
    store: RedisStore, queue: asyncio.Queue[Item], begun: dict[str, Notices]
) -> list[str]:
    """Have all primaries tell, and leave those that are none any more. Those that are new."""
    there = dict[str, None]()
    new = list[str]()
    async with aclosing(servers_of(store).primaries()) as primaries:
        async for connector, _ in primaries:
            there[connector.where] = None
            if connector.where not in begun:
                begun[connector.where] = notices = Notices(connector, queue)
                await notices.begin(store.prefix)
                new.append(connector.where)
    for where in begun.keys() - there.keys():
        await begun.pop(where).close()
    return new

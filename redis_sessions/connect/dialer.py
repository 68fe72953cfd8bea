"""Opens the connections of one event loop to one server, and knows which server that is by now."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator
from contextvars import Context
from typing import Any, Final, cast

from redis import exceptions as errors
from redis.asyncio import ConnectionPool

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.failures import FAILURES, as_redis_error
from redis_sessions.connect.link import Link, LinkOwner

__all__ = ["MOVED", "Dialer"]

_Closer = AsyncGenerator[None, None]

_CHECK_EVERY: Final = 1.0  # seconds
_SLOW: Final = 0.1  # seconds. A failover takes longer.
MOVED: Final = "another server has become the primary"


class Dialer:
    """Opens links to one server. All links that it has opened are in `links`.

    Behind Sentinels the server may change. A link that leads to a former primary is left as soon
    as that is known: by a later link, or by the Sentinels, which are asked once a second.
    """

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.asks_sentinels = connector.asks_sentinels
        self.links: set[Link] = set()
        self._pool: ConnectionPool | None = None
        self._pools: set[ConnectionPool] = set()  # that one, or none
        self._opening = asyncio.Lock()
        self._checked_at = float("-inf")
        self._check: asyncio.Task[None] | None = None
        # A loop that ends closes its async generators: so no link outlives its loop.
        self._closer: _Closer | None = None
        self._ended = asyncio.Event()
        self._connecting: set[asyncio.Task[Any]] = set()
        # If a dialer is collected, its links are closed in the loop that they belong to.
        weakref.finalize(
            self, _close_without_owner, self.links, asyncio.get_running_loop(), os.getpid()
        ).atexit = False

    @property
    def where(self) -> str:
        """The server, without credentials."""
        return self.connector.where

    @property
    def loop_ends(self) -> bool:
        """Whether the event loop is ending. Nobody would close a link that is opened now."""
        return self._ended.is_set()

    async def open(self, owner: LinkOwner, seconds: float) -> Link:
        """A new link, in so many seconds; `StoreError`, redis-py's errors, or `OSError`.

        The start of an embedded server takes longer, and isn't counted.
        """
        async with self._opening:
            pool = self._pool
            if pool is None or self.connector.starts_server:
                pool = self._pool = await self.connector.open()
                self._pools.clear()
                self._pools.add(pool)
            if self._closer is None:
                self._closer = _close_with_loop(
                    self.links, self._pools, self._ended, self._connecting
                )
                await anext(self._closer)
        task = asyncio.current_task()
        assert task is not None
        self._connecting.add(task)
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._connect(pool, owner)
                except errors.ConnectionError as exc:
                    if type(exc) is not errors.ConnectionError:
                        raise
                    # Once more: a server that restarted may have refused only the first attempt.
                    return await self._connect(pool, owner)
        finally:
            self._connecting.discard(task)
            if pool is not self._pool:  # it was closed meanwhile
                await Connector.close(pool)

    async def _connect(self, pool: ConnectionPool, owner: LinkOwner) -> Link:
        loop = asyncio.get_running_loop()
        self._checked_at = asked_at = loop.time()  # the Sentinels are asked now
        connection = cast("Any", pool).make_connection()
        try:
            await connection.connect()
            # A primary that hung meanwhile may have a successor.
            slow = self.asks_sentinels and loop.time() - asked_at > _SLOW
            if slow and await Connector.has_moved(pool):
                raise errors.ConnectionError(MOVED)
            return Link(owner, connection, self.links)
        except BaseException as exc:
            await connection.disconnect(nowait=True)
            await Connector.disconnect_available(pool)
            if isinstance(exc, FAILURES) or not isinstance(exc, Exception):
                raise
            raise as_redis_error(exc) from exc

    def is_elsewhere(self, link: Link) -> bool:
        """Whether the Sentinels led a later link to another primary than this one."""
        primary = getattr(self._pool, "master_address", None)  # no pool: it has been closed
        return primary is not None and link.address != primary

    def check_primary(self) -> None:
        """Ask the Sentinels once a second, in the background, which server is the primary.

        A former primary that hung doesn't know yet that another one has taken its place.
        """
        now = asyncio.get_running_loop().time()
        checking = self.loop_ends or (self._check is not None and not self._check.done())
        if now - self._checked_at >= _CHECK_EVERY and not checking:
            self._checked_at = now
            self._check = asyncio.create_task(self._leave_if_moved(), context=Context())

    async def _leave_if_moved(self) -> None:
        pool = self._pool
        if pool is not None and await Connector.has_moved(pool):
            self.abandon(errors.ConnectionError(MOVED))

    def abandon(self, error: Exception) -> None:
        """Leave all links. What is under way is sent again over the next ones."""
        for link in list(self.links):
            link.abandon(error)

    def retire(self) -> None:
        """Use no link any more: what comes next leaves over new ones."""
        for link in list(self.links):
            link.retire()

    async def close(self) -> None:
        """Close all links as soon as nothing is under way. A later command opens again."""
        if self._check is not None:
            # It uses a connection to a Sentinel: over TLS, to break it off would leave that open.
            await asyncio.wait([self._check], timeout=self.connector.timeout)
            self._check.cancel()
            await asyncio.wait([self._check])
        self._pool = None
        pools = list(self._pools)
        self._pools.clear()
        self.retire()
        await _closed(self.links, self.connector.timeout)
        for pool in pools:
            await Connector.close(pool)


def _close_without_owner(links: set[Link], loop: asyncio.AbstractEventLoop, pid: int) -> None:
    if pid == os.getpid() and not loop.is_closed():
        for link in list(links):
            loop.call_soon_threadsafe(link.retire)


async def _close_with_loop(
    links: set[Link],
    pools: set[ConnectionPool],
    ended: asyncio.Event,
    connecting: set[asyncio.Task[Any]],
) -> _Closer:
    try:
        yield
    finally:
        ended.set()
        if tasks := list(connecting):  # they began while the loop cancelled all tasks
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for link in list(links):
            link.retire()
        await _closed(links, 0)
        for pool in list(pools):
            await Connector.close(pool)  # the connections to Sentinels


async def _closed(links: set[Link], patience: float) -> None:
    """Wait until these links are closed, so many seconds at most. Then they are cut off."""
    closing = list(links)  # others may be opened meanwhile
    if closing:
        await asyncio.wait([link.closed for link in closing], timeout=patience)
    if late := [link for link in closing if not link.closed.done()]:
        for link in late:
            link.cut()
        await asyncio.wait([link.closed for link in late])

"""The time of the servers, as their answers to TIME show it: all processes go by the same.

A request asks no server for it: it adds an offset to `time.monotonic()`, which nobody sets.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from contextvars import Context
from datetime import UTC, datetime
from statistics import median_low
from typing import Any, Final

from redis.exceptions import RedisError

from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.events import logger
from redis_sessions.stores.wire import Wire

__all__ = ["Measurement", "ServerClock"]

TOLERATED: Final = 5.0
"""Seconds by which this machine's clock may be off before it is told."""

_EVERY: Final = 60.0  # seconds
_ANEW: Final = 1.0  # ... and this long after it was asked, a new connection is reason enough


class ServerClock:
    """`time.monotonic() + offset` is the servers' time, in seconds since the epoch.

    Of a Cluster's nodes it is the median's. Until a server has answered, and where none may be
    asked, it is this machine's wall clock.
    """

    __slots__ = ("_servers", "_told", "offset")

    def __init__(self) -> None:
        self._servers: dict[str, float] = {}
        self._told = False
        self.offset = _wall()

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.monotonic() + self.offset

    def hear(self, server: str, said: float, sent: float, got: float) -> None:
        """Take in that a server said this, between these two moments of `time.monotonic()`.

        The offset moves as far as the answer proves it wrong, and no further: so a late one, whose
        moments lie far apart, hardly moves it, and it needs no choice among samples.
        """
        low, high = said - got, said - sent
        known = self._servers.get(server, (low + high) / 2)
        self._servers[server] = min(max(known, low), high)
        self.offset = median_low(list(self._servers.values()))
        if not self._told and not low - TOLERATED < _wall() < high + TOLERATED:
            self._told = True
            logger.warning(
                "sessions: this machine's clock says %s, and that of %s says %s, which sessions "
                "go by: have both machines follow NTP",
                _shown(time.time()),
                server,
                _shown(said),
            )

    def forget(self, server: str) -> None:
        """A node has left its Cluster."""
        if self._servers.pop(server, None) is not None and self._servers:
            self.offset = median_low(list(self._servers.values()))

    def hear_nothing(self) -> None:
        """Take in that a server doesn't tell its time."""
        if not self._servers:
            self.offset = _wall()  # which may have been set meanwhile


def _wall() -> float:
    return time.time() - time.monotonic()


def _shown(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


class Measurement:
    """Asks one server for its time: before all else, on each new connection, and every minute.

    It asks by itself, so that nobody's command is lost where a proxy hangs up on TIME.
    """

    def __init__(self, clock: ServerClock, server: str) -> None:
        self._clock = clock
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Task[StoreError | None] | None = None
        self._asked = False
        self._finished = float("-inf")
        self._greeted = 0
        self._refused = False
        self.due = True

    def greet(self) -> None:
        """Note a new connection: it may lead to another server."""
        self._greeted += 1
        if not self._refused and time.monotonic() - self._finished > _ANEW:
            self.due = True

    async def ask(self, wire: Wire) -> None:
        """Ask, as it is due. Only the first time the answer is waited for.

        Raises the `StoreError` that anything else would meet now.
        """
        if self._asking is None:
            # In the background, and in no request's context.
            self._asking = self._loop.create_task(self._ask(wire), context=Context())
        if not self._asked:
            asking = self._asking
            await asyncio.wait([asking])
            trouble = None if asking.cancelled() else asking.result()
            if trouble is not None and not self._refused:
                raise trouble

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self, wire: Wire) -> StoreError | None:
        greeted = self._greeted
        try:
            # The first may have to connect, and says little.
            self._refused = not (await self._ask_once(wire) and await self._ask_once(wire))
        except StoreError as exc:
            self._clock.hear_nothing()
            lost = isinstance(exc, StoreUnavailableError) and exc.reason == "connection"
            self._refused = lost and self._greeted != greeted  # it let us in, and then hung up
            return exc
        else:
            self._asked = True
            return None
        finally:
            self.due = not self._asked and not self._refused
            self._asking, self._finished = None, time.monotonic()
            if not self.due:
                me: weakref.ref[Measurement] = weakref.ref(self)
                self._loop.call_later(_EVERY, _be_due, me)

    async def _ask_once(self, wire: Wire) -> bool:
        sent = time.monotonic()
        (reply,) = await wire.send([("TIME",)])
        said = _seconds(reply)
        if said is None:
            self._clock.hear_nothing()
        else:
            self._clock.hear(self._server, said, sent, time.monotonic())
        return said is not None


def _be_due(measurement: weakref.ref[Measurement]) -> None:
    if (here := measurement()) is not None:
        here.due = True


def _seconds(reply: Any) -> float | None:
    """What TIME says; None if it isn't told."""
    if isinstance(reply, RedisError):
        return None
    try:
        seconds, micro = map(int, reply)
    except (TypeError, ValueError):
        return None
    return seconds + micro / 1e6

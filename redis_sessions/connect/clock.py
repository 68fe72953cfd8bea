"""The time of the servers, which all processes of an application go by.

The servers are asked for it (`TIME`) in the background. A request asks nobody: it adds an offset to
`time.monotonic()`, which nobody can set.
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

from redis_sessions.connect.wire import Wire
from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.events import logger

__all__ = ["Measurement", "ServerClock"]

TOLERATED: Final = 5.0
"""Seconds by which this machine's clock may be wrong before a warning is logged."""

_EVERY: Final = 60.0
"""Seconds between two questions to a server."""
_BUSY_FOR: Final = 1.0
"""Seconds after an answer during which a new connection is no reason to ask again."""


class ServerClock:
    """`time.monotonic() + offset` is the servers' time, in seconds since the epoch.

    There are three cases:

    1. One server has answered: it is the time of that server.
    2. Several nodes of a Cluster have answered: it is the median of their times.
    3. None has answered yet, or none may be asked: it is the time of this machine.
    """

    __slots__ = ("_servers", "_warned", "offset")

    def __init__(self) -> None:
        self._servers: dict[str, float] = {}
        self._warned = False
        self.offset = _wall()

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.monotonic() + self.offset

    def note(self, server: str, said: float, sent: float, got: float) -> None:
        """Note a server's time. `sent` and `got` are when it was asked, and when it had answered.

        An answer only proves that the offset lies between `said - got` and `said - sent`. The
        server's offset moves into this range, and no further. So a late answer, whose range is
        wide, hardly moves it, and no choice among several samples is needed.
        """
        low, high = said - got, said - sent
        known = self._servers.get(server, (low + high) / 2)
        self._servers[server] = min(max(known, low), high)
        self.offset = median_low(list(self._servers.values()))
        if not self._warned and not low - TOLERATED < _wall() < high + TOLERATED:
            self._warned = True
            logger.warning(
                "sessions: this machine's clock says %s, and that of %s says %s, which sessions "
                "go by: have both machines follow NTP",
                _shown(time.time()),
                server,
                _shown(said),
            )

    def forget(self, server: str) -> None:
        """Forget a node that has left its Cluster."""
        if self._servers.pop(server, None) is not None and self._servers:
            self.offset = median_low(list(self._servers.values()))

    def note_silence(self) -> None:
        """Note that a server didn't answer, or may not be asked."""
        if not self._servers:
            self.offset = _wall()  # this machine's clock may have been set meanwhile


def _wall() -> float:
    return time.time() - time.monotonic()


def _shown(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


class Measurement:
    """Asks one server for its time: before all else, after each new connection, and every minute.

    TIME is sent alone. So no command is lost where a proxy closes the connection at TIME.
    """

    def __init__(self, clock: ServerClock, server: str) -> None:
        self._clock = clock
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Task[StoreError | None] | None = None
        self._asked = False
        self._finished = float("-inf")
        self._connects = 0
        self._refused = False
        self.due = True
        """Whether the server is to be asked before the next command."""

    def on_connect(self) -> None:
        """Note a new connection, which may lead to another server."""
        self._connects += 1
        if not self._refused and time.monotonic() - self._finished > _BUSY_FOR:
            self.due = True

    async def ask(self, wire: Wire) -> None:
        """Ask in the background. Only the first answer is waited for.

        Raises the `StoreError` of a server that can't be reached, as the next command would.
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
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self, wire: Wire) -> StoreError | None:
        connects = self._connects
        try:
            # The first question may have to connect, which takes time: its answer proves little.
            self._refused = not (await self._ask_once(wire) and await self._ask_once(wire))
        except StoreError as exc:
            self._clock.note_silence()
            lost = isinstance(exc, StoreUnavailableError) and exc.reason == "connection"
            self._refused = (
                lost and self._connects != connects
            )  # it closed a new connection at TIME
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
            self._clock.note_silence()
        else:
            self._clock.note(self._server, said, sent, time.monotonic())
        return said is not None


def _be_due(measurement: weakref.ref[Measurement]) -> None:
    if (here := measurement()) is not None:
        here.due = True


def _seconds(reply: Any) -> float | None:
    """The seconds in a reply to TIME; None if it is an error, or no time."""
    if isinstance(reply, RedisError):
        return None
    try:
        seconds, micro = map(int, reply)
    except (TypeError, ValueError):
        return None
    return seconds + micro / 1e6

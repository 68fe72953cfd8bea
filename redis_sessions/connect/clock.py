"""The time of the servers, which all processes of an application go by.

The servers are asked for it (`TIME`) in the background. A request asks nobody: it adds an offset to
`time.monotonic()`, which nobody can set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median_low
from typing import Any, Final

from redis.exceptions import ConnectionError, RedisError  # noqa: A004 - redis-py's

from redis_sessions.connect.link import Part
from redis_sessions.connect.resp import Command, pack, read_reply
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
        self.offset: float = _wall()

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
    """Asks one server for its time: on new connections, and once a minute.

    Some proxies close the connection at TIME. There the server isn't asked for a minute.
    """

    attempts = 0
    until = float("-inf")
    commands: Sequence[Command] = (("TIME",),)

    def __init__(self, clock: ServerClock, server: str) -> None:
        self._clock = clock
        self._server = server
        self._sent = float("-inf")
        self._answers = False  # whether it answered the last time
        self._asking = asyncio.Lock()  # a second connection waits for what the first one asks

    @property
    def due(self) -> bool:
        """Whether it is to be asked before the next command."""
        return self._answers and time.monotonic() - self._sent > _EVERY

    async def on_connect(self, connection: Any) -> None:
        """Ask on a new connection, which may lead to another server."""
        async with self._asking:
            await self._ask(connection)

    async def _ask(self, connection: Any) -> None:
        pause = _BUSY_FOR if self._answers else _EVERY
        if time.monotonic() - self._sent <= pause:
            return
        self._sent, self._answers = time.monotonic(), False
        try:
            await connection.send_packed_command(pack(self.commands))
            self.on_replies([await read_reply(connection)])
        except BaseException as exc:
            if not isinstance(exc, ConnectionError):  # it was too slow, which is no refusal
                self._sent = float("-inf")
            raise
        finally:
            if not self._answers:
                self._clock.note_silence()

    def next_parts(self) -> Sequence[Part]:
        """The question, for a link that is there."""
        self._sent = time.monotonic()
        return [self]

    def on_replies(self, replies: list[Any]) -> bool:
        """Take the answer."""
        said = _seconds(replies[0])
        self._answers = said is not None
        if said is not None:
            self._clock.note(self._server, said, self._sent, time.monotonic())
        return True

    def on_failure(self, error: BaseException) -> None:
        """Ask on the next connection, as the link was lost."""
        self._sent = float("-inf")


def _seconds(reply: Any) -> float | None:
    """The seconds in a reply to TIME; None if it is an error, or no time."""
    if isinstance(reply, RedisError):
        return None
    try:
        seconds, micro = map(int, reply)
    except (TypeError, ValueError):
        return None
    return seconds + micro / 1e6

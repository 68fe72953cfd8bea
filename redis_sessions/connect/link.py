"""One connection to a server, which all that an event loop asks of it shares.

redis-py opens the connection. Then a `Link` owns its socket: what is sent in one piece is a
*flight*, several flights may be under way, and replies come in the order of the flights.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import hiredis
from redis import exceptions as errors

from redis_sessions.connect.failures import error_reply
from redis_sessions.connect.resp import Command, pack
from redis_sessions.connect.versions import take_over

__all__ = ["Link", "LinkOwner", "Part"]

_MORE: Final = object()
"""What the reader returns if a reply isn't complete."""
_NOTICE: Final = [b"invalidate"]
"""The kind of what a server tells of keys that were read. It waits for the replies around it."""
_Push: Final[type[Any]] = hiredis.PushNotification


class Part(Protocol):
    """Commands that belong together, and what becomes of their replies."""

    commands: Sequence[Command]
    attempts: int
    """How often it was sent."""
    until: float
    """Until when it may be sent once more, if the link is lost."""

    def on_replies(self, replies: list[Any]) -> bool:
        """Take the replies: for each command one, or the redis-py error that is its own.

        False if they aren't what any Redis answers. Then the link is left.
        """
        ...

    def on_failure(self, error: BaseException) -> None:
        """Take the error by which all of it failed."""
        ...


class LinkOwner(Protocol):
    """What has a link, and hears of it."""

    def on_replies(self, link: Link, parts: Sequence[Part], replies: list[Any]) -> None:
        """The replies to a flight are there."""
        ...

    def on_push(self, link: Link, message: Any) -> None:
        """The server has sent something by itself."""
        ...

    def on_lost(self, link: Link, parts: Sequence[Part], error: Exception) -> None:
        """The link is lost; `parts` were under way. A `TimeoutError` means that it was too slow."""
        ...


class _Flight:
    __slots__ = ("count", "due", "parts", "sent")

    def __init__(self, parts: Sequence[Part], count: int, sent: float, due: float) -> None:
        self.parts = parts
        self.count = count
        self.sent = sent
        self.due = due


class Link(asyncio.Protocol):
    """A connection that redis-py has opened. `links` has it until it is closed.

    It fails as a whole. There are four cases in which it is lost:

    1. The server closes it, or the network does.
    2. The reply to the oldest flight is late.
    3. A reply comes that nobody waits for, or that is no reply at all.
    4. Its owner leaves it (`abandon`).
    """

    __slots__ = (
        *("__weakref__", "_keep", "_links", "_loop", "_owner", "_pushed", "_reader", "_replies"),
        *("_timer", "_transport", "address", "answered", "closed", "flights", "lost", "retired"),
    )

    def __init__(self, owner: LinkOwner, connection: Any, links: set[Link]) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = weakref.ref(owner)  # the loop has the link, and mustn't hold its owner
        self._reader: Any = hiredis.Reader(
            protocolError=errors.InvalidResponse, replyError=error_reply, notEnoughData=_MORE
        )
        self._replies: list[Any] = []
        self._pushed: list[Any] = []  # among the replies to the oldest flight
        self._timer: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """It is done when the connection is closed."""
        self.flights: deque[_Flight] = deque()
        """What is under way, the oldest first."""
        self.address = getattr(connection, "host", None), getattr(connection, "port", None)
        self.answered = float("-inf")
        """When the latest flight was sent that has been answered."""
        self.lost = False
        self.retired = False
        """Whether it closes as soon as nothing is under way."""
        self._transport, self._keep = take_over(connection, self)
        self._links = links
        links.add(self)

    def send(self, parts: Sequence[Part], now: float, due: float) -> None:
        """Send these parts in one piece. The replies have to be there when it is `due`."""
        if len(parts) == 1:
            commands = parts[0].commands
        else:
            commands = [command for part in parts for command in part.commands]
        data = pack(commands)  # before anything else: it may raise
        self.flights.append(_Flight(parts, len(commands), now, due))
        self._transport.write(data)
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._check_time)

    def retire(self) -> None:
        """Close it as soon as nothing is under way."""
        self.retired = True
        if not self.flights and not self.lost:
            self._end()

    def abandon(self, error: Exception, *again: Part) -> None:
        """Close it at once. What is under way is lost, and so is `again`."""
        if not self.lost:
            under_way = [*again, *(part for flight in self.flights for part in flight.parts)]
            self.flights.clear()
            self._end()
            self._transport.abort()
            if (owner := self._owner()) is not None:
                owner.on_lost(self, under_way, error)

    def cut(self) -> None:
        """Close it at once, without a goodbye (over TLS, a server that hangs answers none)."""
        self._transport.abort()

    def _end(self) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.close()

    def _check_time(self) -> None:
        self._timer = None
        if self.flights and not self.lost:
            due = self.flights[0].due
            if self._loop.time() < due:
                self._timer = self._loop.call_at(due, self._check_time)
            else:
                self.abandon(TimeoutError())

    # -- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while not self.lost:
            try:
                reply = self._reader.gets()
            except (errors.InvalidResponse, TypeError) as exc:  # a map's key may be a list
                self.abandon(errors.InvalidResponse(str(exc)))
                return
            if reply is _MORE:
                return
            if reply.__class__ is _Push:
                self._pushed.append(reply)
                if not self._replies or reply[:1] != _NOTICE:
                    self._pass_on()
            elif self.flights:
                self._replies.append(reply)
                if len(self._replies) >= self.flights[0].count:
                    self._answer()
            else:
                self.abandon(errors.InvalidResponse("the server has sent something by itself"))

    def _answer(self) -> None:
        replies, self._replies = self._replies, []
        flight = self.flights.popleft()
        self.answered = flight.sent
        if (owner := self._owner()) is not None:
            owner.on_replies(self, flight.parts, replies)
        if self._pushed:
            self._pass_on()
        if self.retired and not self.flights and not self.lost:
            self._end()

    def _pass_on(self) -> None:
        """Tell what the server has sent by itself: after the replies that came before it."""
        pushed, self._pushed = self._pushed, []
        for message in pushed:
            if not self.lost and (owner := self._owner()) is not None:
                owner.on_push(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        why = str(exc) if exc is not None else "the server closed the connection"
        self.abandon(errors.ConnectionError(why))
        self._keep = None
        self._links.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)

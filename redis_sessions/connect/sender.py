"""Sends what its queues hold to one server, over one link at a time.

What is asked in one tick of the event loop leaves at its end, in one piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from operator import attrgetter
from typing import Any, Final, Protocol

from redis import exceptions as errors

from redis_sessions.connect.dialer import MOVED, Dialer
from redis_sessions.connect.failures import FAILURES, is_read_only, late, translate
from redis_sessions.connect.link import Link, Part
from redis_sessions.connect.resp import Command, Script
from redis_sessions.errors import StoreError

__all__ = ["Errand", "LinkListener", "PartQueue", "Sender"]

MAX_FLIGHTS: Final = 2
"""The most flights that are under way on one link."""
_MAX_ATTEMPTS: Final = 2

_items: Final = attrgetter("items")


class PartQueue(Protocol):
    """Where items wait until they leave."""

    @property
    def items(self) -> Sequence[Any]:
        """What waits."""
        ...

    def next_part(self, now: float) -> Part | None:
        """The items that leave next; None if nobody waits for them any more.

        In both cases these items wait no longer.
        """
        ...

    def wait_from(self, now: float) -> None:
        """Have the time for which items may wait begin now."""
        ...

    def fail(self, error: BaseException) -> None:
        """Let all that wait fail."""
        ...


class Errand(Protocol):
    """What a server is to be sent before anything else."""

    @property
    def due(self) -> object:
        """Whether there is something to send (as a truth value)."""
        ...

    def next_parts(self) -> Sequence[Part]:
        """The parts that are due."""
        ...


class LinkListener(Protocol):
    """What wants to know what happens to a sender's link."""

    def on_push(self, link: Link, message: Any) -> bool:
        """The server has sent something by itself. False if that is unexpected."""
        ...

    def on_lost(self, link: Link) -> None:
        """A link is lost."""
        ...


class Sender:
    """Sends what waits in its `queues`. They belong to one event loop.

    `seconds` bounds opening a link, and each flight. There are three cases for what waits:

    1. There is a link: it leaves at the end of this tick. If two flights are under way, it
       leaves together with what comes until one of them is answered.
    2. There is none: a link is opened. What waits fails if that fails.
    3. The link is lost after it was sent: it is sent once more over the next link, but not if the
       server was too slow. All that is sent here may be repeated.

    `errands` go ahead of everything else, the last of them first. `scripts` are loaded where a
    server doesn't know one.
    """

    def __init__(
        self,
        dialer: Dialer,
        seconds: float,
        scripts: Sequence[Script] = (),
        errands: Sequence[Errand] = (),
    ) -> None:
        self._dialer = dialer
        self._seconds = seconds
        self._scripts = scripts
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # that of no request
        self.link: Link | None = None
        """The link that is in use."""
        self.answering: Link | None = None
        """The link whose replies are being delivered just now."""
        self.listener: LinkListener | None = None
        self._opening: asyncio.Task[None] | None = None
        self.waking = False
        """Whether what waits leaves at the end of this tick."""
        self._closing = False
        self._again: list[Part] = []
        self.errands = list(errands)
        self.queues: list[PartQueue] = []

    def wake(self) -> None:
        """Let what waits leave at the end of this tick."""
        if not self.waking:
            self.waking = True
            self._loop.call_soon(self._leave, context=self._context)

    async def close(self) -> None:
        """Let what waits leave, and retire the link. A later item opens one again."""
        self._closing = True
        try:
            self._leave()
            while under_way := self._opening if self.link is None else self.link.closed:
                await asyncio.wait([under_way])
                self._leave()
        finally:
            self._closing = False

    def leave(self, error: StoreError) -> None:
        """Let all that waits or is under way fail at once: the server isn't used any more."""
        self._fail_all(error)
        if self.link is not None:
            self.link.abandon(error)

    @property
    def _waits(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._again) or any(map(_items, self.queues))

    # -- leaving

    def _leave(self) -> None:
        self.waking = False
        link = self.link
        if link is not None and self._dialer.asks_sentinels:
            self._dialer.check_primary()
            if self._dialer.is_elsewhere(link):
                link.abandon(errors.ConnectionError(MOVED))
        if link is None or link.lost or link.retired:
            self.link = None
            if self._waits:
                self._open_soon()
            return
        while len(link.flights) < MAX_FLIGHTS:
            now = self._loop.time()
            parts = self._next_parts(now)
            if not parts:
                break
            for errand in self.errands:
                if errand.due:
                    parts[:0] = errand.next_parts()
            try:
                link.send(parts, now, now + self._seconds)
            except Exception as exc:  # noqa: BLE001 - those who wait get it, whatever it is
                for part in parts:
                    part.on_failure(exc)
            if not self._waits:
                break
        if self._closing and not self._waits:
            self.link = None
            link.retire()

    def _next_parts(self, now: float) -> list[Part]:
        parts: list[Part] = []
        if self._again:
            again, self._again = self._again, []
            parts = [part for part in again if now <= part.until]
            for part in again:
                if now > part.until:
                    part.on_failure(late(self._dialer.where, self._seconds))
        for queue in self.queues:
            while queue.items:
                if (leaving := queue.next_part(now)) is not None:
                    parts.append(leaving)
                    break
        for part in parts:
            part.attempts += 1
        return parts

    def _open_soon(self) -> None:
        if self._dialer.loop_ends:
            self._fail_all(asyncio.CancelledError())
        elif self._opening is None or self._opening.done():  # cancelled before it began
            self._opening = self._loop.create_task(self._open(), context=Context())

    async def _open(self) -> None:
        try:
            self.link = await self._dialer.open(self, self._seconds)
        except FAILURES as exc:
            self._fail_all(self._translate(exc))
        except BaseException as exc:
            self._fail_all(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._opening = None
        if self.link is not None:
            if self._dialer.connector.starts_server:  # which takes longer than items may wait
                for queue in self.queues:
                    queue.wait_from(self._loop.time())
            self._leave()  # it may have to open another link

    def _fail_all(self, error: BaseException, parts: Sequence[Part] = ()) -> None:
        """Let all that waits fail, and these parts."""
        again, self._again = self._again, []
        for part in [*parts, *again]:
            part.on_failure(error)
        for queue in self.queues:
            queue.fail(error)

    def _translate(self, exc: Exception) -> StoreError:
        where = self._dialer.where
        if isinstance(exc, (TimeoutError, errors.TimeoutError)):
            return late(where, self._seconds)
        return translate(where, exc)

    # -- what the link tells

    def on_replies(self, link: Link, parts: Sequence[Part], replies: list[Any]) -> None:
        if self._dialer.asks_sentinels and self._dialer.is_elsewhere(link):
            link.abandon(errors.ConnectionError(MOVED), *parts)  # a former primary doesn't count
            return
        self.answering = link
        try:
            if len(parts) == 1:
                self._deliver(link, parts[0], replies)
            else:
                start = 0
                for part in parts:
                    end = start + len(part.commands)
                    self._deliver(link, part, replies[start:end])
                    start = end
        except Exception as exc:
            for part in parts:
                part.on_failure(exc)  # who has a reply keeps it
            raise
        finally:
            self.answering = None
        self.wake()  # behind the requests that go on now, so that what they ask leaves in this tick

    def _deliver(self, link: Link, part: Part, replies: list[Any]) -> None:
        demoted = False
        for reply in replies:
            if isinstance(reply, errors.ResponseError):
                if isinstance(reply, errors.NoScriptError) and not isinstance(part, _WithScripts):
                    # An errand has no time of its own: it was sent with somebody's items.
                    until = part.until if part.attempts else self._loop.time() + self._seconds
                    self._again.append(_WithScripts(part, self._scripts, until))
                    return
                demoted = demoted or is_read_only(reply)
        if not part.on_replies(replies):
            link.abandon(errors.InvalidResponse())
        if demoted:
            self._dialer.retire()  # all links lead to it

    def on_push(self, link: Link, message: Any) -> None:
        listener = self.listener
        if listener is None or not listener.on_push(link, message):
            link.abandon(errors.InvalidResponse("the server has sent something by itself"))

    def on_lost(self, link: Link, parts: Sequence[Part], error: Exception) -> None:
        if self.link is link:
            self.link = None
        if self.listener is not None:
            self.listener.on_lost(link)
        if isinstance(error, (TimeoutError, StoreError)):
            self._fail_all(self._translate(error), parts)
            return
        now, failure = self._loop.time(), self._translate(error)
        for part in parts:
            if part.attempts < _MAX_ATTEMPTS and now <= part.until:
                self._again.append(part)
            else:
                part.on_failure(failure)
        if self._waits:
            self._open_soon()


class _WithScripts:
    """A part that is sent again behind SCRIPT LOAD, since the server didn't know a script."""

    def __init__(self, part: Part, scripts: Sequence[Script], until: float) -> None:
        self._part = part
        self._loads = [("SCRIPT", "LOAD", script.text) for script in scripts]
        self.commands: Sequence[Command] = [*self._loads, *part.commands]
        self.attempts = part.attempts - 1
        self.until = until

    def on_replies(self, replies: list[Any]) -> bool:
        """If a script is still missing, its command's reply is the error of SCRIPT LOAD."""
        count = len(self._loads)
        why = next((r for r in replies[:count] if isinstance(r, errors.RedisError)), None)
        rest = replies[count:]
        return self._part.on_replies(
            [why if why and isinstance(r, errors.NoScriptError) else r for r in rest]
        )

    def on_failure(self, error: BaseException) -> None:
        self._part.on_failure(error)

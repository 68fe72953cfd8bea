"""Processes with near copies: the library's own `Tracking`, over links that the explorer moves.

A link is a queue of what the server has sent over it, replies and notices in one order. `Server` is
what a server remembers of who has read which key. The explorer says when a process hears the next
message, when its link ends, and how time passes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest import mock

from redis_sessions.connect.health import Health
from redis_sessions.errors import StoreUnavailableError
from redis_sessions.stores import tracking, watching
from redis_sessions.stores.commands import ABSENT, END, Write
from redis_sessions.stores.protocols import GONE, STORED, NearCopy
from redis_sessions.stores.tracking import Tracking
from redis_sessions.stores.watching import Notify, Watching
from tests.explorer.gate import Call

__all__ = ["BOUND", "Link", "Message", "Process", "Server", "Time", "own_time"]

BOUND: Final = 1.5
"""Seconds. A third of it is exact in binary, as the explorer's clock has to be."""


@dataclass(eq=False)
class _Timer:
    at: float
    run: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Time:
    """The loop of all processes, as far as they ask for the time or set timers."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._timers: list[_Timer] = []
        self.moments = 0

    def time(self) -> float:
        """Later with every step of the explorer, but by less than anybody's clock shows."""
        return self._clock() + self.moments * 2.0**-20

    async def turn(self) -> None:
        """Let the real loop run what is ready."""
        await asyncio.sleep(0)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def call_later(
        self, delay: float, run: Callable[..., None], *args: Any, context: Any = None
    ) -> _Timer:
        timer = _Timer(self.time() + delay, lambda: run(*args))
        self._timers.append(timer)
        return timer

    def run_due(self) -> bool:
        """Run the timers whose time has come. Returns whether there were any."""
        due = [timer for timer in self._timers if timer.at <= self.time()]
        self._timers = [t for t in self._timers if t not in due and not t.cancelled]
        for timer in due:
            if not timer.cancelled:
                timer.run()
        return bool(due)


def own_time() -> AbstractContextManager[object]:
    """Have the timers of `Tracking` and `Watching` be those of the `Time` that they have."""

    def call_later(seconds: float, owner: Any, method: Callable[[Any], None]) -> _Timer:
        return cast("Time", owner._loop).call_later(seconds, method, owner)

    stack = ExitStack()
    for module in (tracking, watching):
        stack.enter_context(mock.patch.object(module, "call_later", call_later))
    return stack


@dataclass(eq=False)
class Message:
    """What the server has sent: a notice about an id, or the replies to one flight."""

    notice: str | None = None
    sent: float = 0.0
    parts: list[tuple[Any, list[Any]]] = field(default_factory=list[tuple[Any, list[Any]]])
    """Parts of the library's own, and the replies to them."""
    call: Call | None = None
    result: Any = None


class Link:
    """One connection, as far as `Tracking` knows it, and as the server and the network have it."""

    def __init__(self, process: Process, number: int = 0, *, tracks: bool = True) -> None:
        self.process = process
        self.number = number
        self.answered = float("-inf")
        self.lost = self.retired = False
        self.may_track = tracks
        self.tracks = False
        """Whether the server was asked to tell over it what changes."""
        self.dead = False
        """Nothing passes any more, and the process doesn't know."""
        self.demoted = False
        """It leads to a server that is a replica now."""
        self.stream: deque[Message] = deque()

    @property
    def usable(self) -> bool:
        """Whether a flight may leave over it."""
        return not (self.lost or self.retired)

    @property
    def owes_replies(self) -> bool:
        """Whether anything is under way."""
        return any(message.notice is None for message in self.stream)

    def retire(self) -> None:
        """As the library's: it closes when nothing is under way."""
        self.retired = True
        self.end_if_idle()

    def end_if_idle(self) -> None:
        if self.retired and not self.owes_replies:
            self.lost = True
            self.stream.clear()
            self.process.server.forget(self)

    def abandon(self, error: Exception) -> None:
        """As the library's: it is lost, with all that is under way."""
        if not self.lost:
            self.lost = True
            messages, self.stream = list(self.stream), deque[Message]()
            self.process.server.forget(self)
            self.process.on_lost(self, messages)


class Server:
    """Which links are told of an id's next change."""

    def __init__(self) -> None:
        self._readers: dict[str, dict[Link, None]] = {}

    def read(self, id: str, by: Link) -> None:
        """A link has read an id."""
        if by.tracks and not by.demoted and not by.dead:
            self._readers.setdefault(id, {})[by] = None

    def changed(self, id: str, by: Link, *, rereads: bool) -> None:
        """An id has changed: who has read it is told once, and who has changed it behind the reply.

        `rereads`: whether that one has read it afterwards.
        """
        for link in self._readers.pop(id, ()):
            link.stream.append(Message(notice=id))
        if rereads:
            self.read(id, by)

    def readers(self, id: str) -> list[Link]:
        """Who would be told."""
        return list(self._readers.get(id, ()))

    def forget(self, link: Link) -> None:
        """A connection is closed."""
        for readers in self._readers.values():
            readers.pop(link, None)


class _Dialer(SimpleNamespace):
    """What `Tracking` asks of a dialer: whether the server is known to have moved."""

    asks_sentinels = False
    where = "the explorer's server"

    def is_elsewhere(self, link: Link) -> bool:
        return False


class _Sender:
    """What `Tracking` and its queue of heartbeats see of a sender."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.answering: Link | None = None
        self.listener: Any = None
        self.errands: list[Any] = []
        self.queues: list[Any] = []
        self.again: list[Any] = []
        self.waking = False

    def wake(self) -> None:
        """The explorer looks at the queues by itself."""


class Process:
    """One process: its copies, its watched keys, and its links to the server.

    `waits`: writes go over another link than reads, as they do where they wait for replicas.
    """

    client_cache = BOUND

    def __init__(
        self, number: int, server: Server, time: Time, prefix: str, *, waits: bool = False
    ) -> None:
        self.number = number
        self.server = server
        self._time = time
        self._prefix = prefix
        self._sender = _Sender()
        self.sealer: Any = None
        self.pending: list[Call] = []
        """Reads of watched keys that wait to be sent."""
        self._load: Callable[[str], Awaitable[bytes | None]] | None = None
        with mock.patch.object(asyncio, "get_running_loop", return_value=time):
            self.watching = Watching(self._read_watched, self.client_cache)
            self.tracking = Tracking(
                cast("Any", self._sender), cast("Any", _Dialer()), Health(), self.watching
            )
        self._links: list[Link] = []
        self._count = 0
        self._writing = Link(self, tracks=False) if waits else None
        self.retried: list[Message] = []
        """What was under way on a link that was lost."""

    # -- what requests ask

    def near_copy(self, id: str) -> NearCopy | None:
        return self.tracking.near_copy(self._prefix + id)

    def watch(self, id: str, notify: Notify) -> Callable[[], None]:
        return self.watching.watch(self._prefix + id, notify)

    def reads_by(self, load: Callable[[str], Awaitable[bytes | None]]) -> None:
        """How watched keys are read."""
        self._load = load

    def _read_watched(self, key: str) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        id, load = key.removeprefix(self._prefix), self._load
        assert load is not None
        self.pending.append(Call("load", id, lambda: load(id), answer))
        return answer

    # -- flights

    @property
    def link(self) -> Link | None:
        """The link that reads leave over."""
        return self._sender.link

    @property
    def links(self) -> list[Link]:
        """All that something may come over, the oldest first."""
        own = self._links if self._writing is None else [*self._links, self._writing]
        return [link for link in own if not link.lost]

    def may_send(self, call: Call | None = None) -> bool:
        """Whether it would arrive. Over a dead link, or to a former primary, it wouldn't."""
        link = self._link_for(call)
        if link is None or not link.usable:
            return True
        return not link.dead and not (link.demoted and call is not None and call.writes)

    def _link_for(self, call: Call | None) -> Link | None:
        return self._writing if self._writing and call and call.writes else self._sender.link

    def leaves(self, call: Call | None = None) -> tuple[Link, Message]:
        """A flight leaves, over a new link if need be; with what the library sends ahead of it."""
        link = self._link_for(call)
        if link is None or not link.usable:
            self._count += 1
            link = self._sender.link = Link(self, self._count)
            self._links = [*(each for each in self._links if not each.lost), link]
        message = Message(sent=self._time.time(), call=call)
        if link is not self._writing:
            for errand in self._sender.errands:
                if errand.due:
                    link.tracks = link.may_track
                    role: list[Any] = [b"slave" if link.demoted else b"master", 0, []]
                    message.parts += [(part, [{}, b"OK", role]) for part in errand.next_parts()]
        return link, message

    @property
    def beats(self) -> bool:
        """Whether a heartbeat waits to be sent."""
        return bool(self._sender.again) or any(each.items for each in self._sender.queues)

    def beat(self) -> None:
        """A heartbeat leaves, and the server answers it."""
        link, message = self.leaves()
        again, self._sender.again = self._sender.again, []
        fresh = [q.next_part(self._time.time()) for q in self._sender.queues if q.items]
        for part in [*again, *(part for part in fresh if part is not None)]:
            part.attempts += 1
            role: list[Any] = [b"slave" if link.demoted else b"master", 0, []]
            message.parts.append((part, [role for _ in part.commands]))
        link.stream.append(message)

    def hear(self, link: Link) -> Message:
        """The next message of a link arrives; the caller resolves its call."""
        message = link.stream.popleft()
        if message.notice is not None:
            names = [(self._prefix + message.notice).encode()]
            assert self.tracking.on_push(cast("Any", link), [b"invalidate", names])
            return message
        link.answered = message.sent
        self._sender.answering = link
        for part, replies in message.parts:
            assert part.on_replies(replies)
        if message.call is not None:
            self._note(message.call, message.result)
        self._sender.answering = None
        link.end_if_idle()
        return message

    def _note(self, call: Call, result: Any) -> None:
        """What the readers of replies tell `Tracking`."""
        key = self._prefix + call.target
        if call.name == "load":
            self.tracking.note_values([key], [result])
        else:
            value, answer = call.value or b"", result
            if call.name == "end":
                answer = STORED if result.result else GONE
            expected = END if call.name == "end" else ABSENT
            self.tracking.note_writes([Write(key, expected, value, 1)], [answer])

    def on_lost(self, link: Link, messages: Sequence[Message]) -> None:
        """What a sender does when a link is lost: what was under way is sent once more."""
        if self._sender.link is link:
            self._sender.link = None
        self.tracking.on_lost(cast("Any", link))
        for message in messages:
            for part, _ in message.parts:
                if part is self.tracking:
                    part.on_failure(StoreUnavailableError("lost", reason="connection"))
                else:
                    self._sender.again.append(part)
            if message.call is not None:
                self.retried.append(message)

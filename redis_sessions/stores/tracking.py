"""What a server tells of keys that were read or written over one link (`CLIENT TRACKING`).

With RESP3 a notice comes over the same connection as the replies, in one order with them. So there
is no race between a reply and a notice, and copies live and die with the link that read them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from contextvars import Context
from typing import Any, Final

from redis import exceptions as errors

from redis_sessions.connect.dialer import Dialer
from redis_sessions.connect.health import Health
from redis_sessions.connect.link import Link
from redis_sessions.connect.resp import UNEXPECTED_REPLY, Command
from redis_sessions.connect.sender import Sender
from redis_sessions.events import logger
from redis_sessions.session.record import is_tombstone
from redis_sessions.stores.commands import IndexCommand, Item, Write
from redis_sessions.stores.copies import Copies
from redis_sessions.stores.protocols import STORED, NearCopy
from redis_sessions.stores.queues import ItemQueue
from redis_sessions.stores.replies import alone
from redis_sessions.stores.watching import Watching

__all__ = ["Tracking"]

_NEVER: Final = float("-inf")
_IDLE: Final = 60.0
"""Seconds after which copies that nobody has used are dropped, so that the heartbeat may stop."""
_ATTEMPTS: Final = 3
"""Failures in a row after which a server isn't asked to track for a while."""
_PAUSE: Final = 60.0
"""Seconds until it is asked again."""
_ROLE: Final = ("ROLE",)


class Tracking:
    """Near copies of one server's records, and notices for `watching`.

    A copy is served only if the server has answered, as a primary, something that was sent at most
    `bound` seconds ago over the copy's link: by then all earlier notices have been read. So the
    server is asked for its role three times in that time, as long as something depends on it. If it
    doesn't answer within the bound, the link is left for another one.
    """

    attempts = 0
    until = _NEVER
    commands: Sequence[Command] = (("HELLO", 3), ("CLIENT", "TRACKING", "ON", "NOLOOP"), _ROLE)

    def __init__(
        self,
        sender: Sender,
        dialer: Dialer,
        health: Health,
        watching: Watching,
    ) -> None:
        self._sender = sender
        self._dialer = dialer
        self._watching = watching
        self._bound = bound = watching.bound
        self.copies = Copies() if watching.keeps_copies else None
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # that of no request
        self._heartbeats = ItemQueue[IndexCommand, None](
            sender, alone, self._read_roles, health, bound
        )
        self._asked: Link | None = None  # the link that was asked to track
        self._link: Link | None = None  # the link that does
        self._proven = _NEVER  # all notices of before have been read
        self._timer: asyncio.TimerHandle | None = None
        self._beat_at = _NEVER
        self._beat: asyncio.Future[None] | None = None
        self._used_at = _NEVER
        self._failures = 0
        self._retry_at = _NEVER
        sender.listener = self
        sender.errands.append(self)

    # -- near copies

    def near_copy(self, key: str) -> NearCopy | None:
        """The copy of a key, if it is known to be at most `bound` seconds old."""
        copy = None if self.copies is None else self.copies.get(key)
        if copy is None:
            return None
        now, link = self._loop.time(), self._link
        if now - self._proven > self._bound or link is None or link.retired:
            return None
        if self._dialer.asks_sentinels and self._dialer.is_elsewhere(link):
            return None
        self._used_at = now
        return copy

    def forget_copies(self) -> None:
        """Forget all copies."""
        if self.copies is not None:
            self.copies.forget_all(None)

    def note_values(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        """Keep copies of what was read, if it was read over the link."""
        copies, link = self.copies, self._link
        if copies is None or link is None or self._sender.answering is not link:
            return
        self._used_at = self._loop.time()
        for key, value in zip(keys, values, strict=True):
            if value.__class__ is bytes and not is_tombstone(value):
                known = copies.get(key)
                if known is None or known.value != value:
                    copies.put(key, NearCopy(value), link.answered)
            else:
                copies.forget(key)

    def note_writes(self, items: Sequence[Item], answers: Sequence[Any]) -> None:
        """Keep copies of records that were stored over the link. Any other write is a notice."""
        copies, link, watching = self.copies, self._link, self._watching
        tracked = link is not None and self._sender.answering is link
        for item, answer in zip(items, answers, strict=True):
            if not isinstance(item, Write):
                continue
            key = item.key
            if copies is None:
                pass
            elif not tracked:
                copies.forget_at(key, self._loop.time())
            elif link is not None and answer is STORED and not is_tombstone(item.value):
                copies.put(key, NearCopy(item.value, own=True), link.answered)
            else:
                copies.forget(key)
            if key in watching:
                watching.read([key])

    # -- how a link is asked to track

    @property
    def due(self) -> bool:
        """Whether the link is to be asked."""
        return (
            self._sender.link is not self._asked
            and (self.copies is not None or bool(self._watching))
            and self._loop.time() >= self._retry_at
        )

    def next_parts(self) -> Sequence[Tracking]:
        """The question. It leaves ahead of the reads that are to be tracked."""
        self._asked = self._sender.link
        if self._timer is None:
            self._beat_later()
        return [self]

    def on_replies(self, replies: list[Any]) -> bool:
        """Take the answer to the question."""
        refusal = next((r for r in replies if isinstance(r, errors.RedisError)), None)
        if refusal is not None:
            self._failures = _ATTEMPTS
            self._fail(str(refusal))
            return True
        if self._link is not None and self._link is not self._sender.answering:
            self._leave_link()  # it was retired: nobody has said yet what has changed since
        self._link = self._asked = self._sender.answering
        return self._note_role(replies[-1])

    def on_failure(self, error: BaseException) -> None:
        """The link was lost. Some proxies close a connection at a command that they don't know."""
        if getattr(error, "reason", None) == "connection":
            self._fail(str(error))

    def _fail(self, why: str) -> None:
        self._failures += 1
        if self._failures < _ATTEMPTS:
            return
        if self._retry_at == _NEVER:
            logger.warning(
                "sessions: %s doesn't say which keys change (%s): there are no near copies, and "
                "the sessions of open sockets are read every 5 seconds",
                self._dialer.where,
                why,
            )
        self._retry_at = self._loop.time() + _PAUSE
        self._watching.poll(self)

    # -- what a link tells

    def on_push(self, link: Link, message: Any) -> bool:
        """Take a notice: `[b"invalidate", [key, ...]]`, or with None if all keys were removed."""
        try:
            kind, keys = message
            names = None if keys is None else [key.decode(errors="replace") for key in keys]
        except UNEXPECTED_REPLY:
            return False
        if kind != b"invalidate":
            return False
        if self.copies is not None:
            self.copies.forget_all(names)
        self._watching.read(names)
        return True

    def on_lost(self, link: Link) -> None:
        """All copies go with their link, and all watched keys count as changed."""
        if link is self._link:
            self._leave_link()

    def _leave_link(self) -> None:
        self._link, self._asked, self._proven = None, None, _NEVER
        self.forget_copies()
        self._watching.read(None)

    # -- the heartbeat

    def _beat_later(self) -> None:
        me = weakref.ref(self)

        def beat() -> None:
            if (here := me()) is not None:
                here._tick()

        self._timer = self._loop.call_later(self._bound / 3, beat, context=self._context)

    def _tick(self) -> None:
        self._timer = None
        now, link = self._loop.time(), self._link
        if link is not None and link.retired:
            self._leave_link()
        if self.copies and now - self._used_at > _IDLE:
            self.copies.forget_all(None)
        if not self.copies and not self._watching:
            self._stop()
            return
        if self._beat is None or self._beat.done():
            self._beat_at = now
            self._beat = self._heartbeats.submit(IndexCommand("", _ROLE), 64)
            self._beat.add_done_callback(_retrieve, context=self._context)
        elif link is not None and now - self._beat_at > self._bound:
            link.abandon(errors.ConnectionError("no answer to a heartbeat"))
        self._beat_later()

    def _stop(self) -> None:
        """Nothing depends on the link's notices any more. The next link doesn't send any."""
        if self._link is not None:
            self._link.retire()
        self._link = self._asked = None

    def _read_roles(self, items: Sequence[Item], replies: list[Any]) -> list[None]:
        if self._link is not None and self._sender.answering is self._link:
            for reply in replies:
                self._note_role(reply)
        return [None] * len(items)

    def _note_role(self, reply: Any) -> bool:
        """Note that the server has answered, and whether it is a primary. False: it is no reply."""
        link = self._link
        assert link is not None
        if isinstance(reply, errors.RedisError):  # such as LOADING: it proves nothing
            return True
        if not isinstance(reply, list) or not reply:
            return False
        if reply[0] == b"master":
            self._failures = 0
            self._retry_at = _NEVER
            self._watching.stop_polling(self)
            self._proven = link.answered
        else:
            self._fail("it is a replica")
            link.retire()
        return True


def _retrieve(future: asyncio.Future[None]) -> None:
    """Take a heartbeat's error, which others report, so that asyncio doesn't log it."""
    if not future.cancelled():
        future.exception()

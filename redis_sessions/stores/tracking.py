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
from redis_sessions.errors import StoreError
from redis_sessions.events import logger
from redis_sessions.session.record import VERSION
from redis_sessions.stores.commands import IndexCommand, Item, Write
from redis_sessions.stores.copies import Copies
from redis_sessions.stores.protocols import STORED, NearCopy
from redis_sessions.stores.queues import ItemQueue
from redis_sessions.stores.watching import Watching

__all__ = ["Tracking"]

_NEVER: Final = float("-inf")
_IDLE: Final = 60.0
"""Seconds after which copies that nobody has used are dropped, so that the heartbeat may stop."""
_ATTEMPTS: Final = 3
"""Links that are lost in a row at the first command, before that is believed to be the reason."""


class Tracking:
    """Near copies of one server's records, and notices for `watching`.

    A copy is served only if the server has answered, as a primary, something that was sent less
    than `bound` seconds ago on the copy's link: all notices before that answer have been read. So
    the server is asked for its role three times in that time, as long as anything depends on it.
    If no answer comes within the bound, the link is left for another one.
    """

    def __init__(
        self,
        sender: Sender,
        dialer: Dialer,
        health: Health,
        watching: Watching,
        bound: float,
        *,
        keeps_copies: bool,
    ) -> None:
        self._sender = sender
        self._dialer = dialer
        self._watching = watching
        self._bound = bound
        self.copies = Copies() if keeps_copies else None
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # that of no request
        self._heartbeats = ItemQueue[IndexCommand, Any](
            sender, lambda items: [item.command for item in items], self._read_roles, health, bound
        )
        self._beating: asyncio.TimerHandle | None = None
        self._asked: Link | None = None  # the link that was asked to track
        self._link: Link | None = None  # the link that does
        self._proven = _NEVER  # when that was sent which shows that all notices have been read
        self._beat_at = _NEVER
        self._used_at = _NEVER
        self._failures = 0
        self._available = True
        sender.listener = self

    @property
    def active(self) -> bool:
        """Whether something depends on it."""
        return self.copies is not None or bool(self._watching)

    # -- near copies

    def near_copy(self, key: str) -> NearCopy | None:
        """The copy of a key, if it is known to be at most `bound` seconds old."""
        assert self.copies is not None
        copy = self.copies.get(key)
        if copy is None:
            return None
        now, link = self._loop.time(), self._link
        if now - self._proven > self._bound or link is None or link.retired:
            return None
        self._used_at = now
        return copy

    def note_values(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        """Keep copies of what was read, if it was read over the link."""
        if self.copies is not None and self._is_tracked():
            for key, value in zip(keys, values, strict=True):
                if value.__class__ is bytes and len(value) > VERSION:
                    self._keep(key, NearCopy(value))
                else:
                    self.copies.forget(key)

    def note_writes(self, items: Sequence[Item], answers: Sequence[Any]) -> None:
        """Keep copies of records that were stored over the link. Any other write is a notice."""
        copies, tracked = self.copies, self._is_tracked()
        for item, answer in zip(items, answers, strict=True):
            if not isinstance(item, Write):
                continue
            key = item.key
            if copies is not None:
                if tracked and answer is STORED and len(item.value) > VERSION:
                    self._keep(key, NearCopy(item.value, own=True))
                else:
                    copies.forget(key, None if tracked else self._loop.time())
            if key in self._watching:
                self._watching.read([key])

    def _is_tracked(self) -> bool:
        return self._link is not None and self._sender.answering is self._link

    def _keep(self, key: str, copy: NearCopy) -> None:
        assert self.copies is not None and self._link is not None
        self._used_at = self._loop.time()
        self.copies.put(key, copy, self._link.answered)

    # -- what a sender asks, and tells

    @property
    def due(self) -> bool:
        """Whether the link is to be asked to track."""
        return self._sender.link is not self._asked and self._available and self.active

    def next_parts(self) -> Sequence[_Switch]:
        """What switches tracking on. It goes ahead of the reads that are to be tracked."""
        self._asked = link = self._sender.link
        assert link is not None
        self._beat_at = self._loop.time()
        if self._beating is None:
            self._beat_later()
        return [_Switch(self, link)]

    def on_push(self, link: Link, message: Any) -> bool:
        """Take a notice: `[b"invalidate", [key, ...]]`, or None in the place of the keys."""
        try:
            kind, keys = message
            names = None if keys is None else [key.decode() for key in keys]
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
            self._forget_link()

    def _forget_link(self) -> None:
        self._link, self._proven = None, _NEVER
        if self.copies is not None:
            self.copies.forget_all(None)
        self._watching.read(None)

    def switched_on(self, link: Link, role: Any) -> None:
        """The link tracks from now on."""
        self._failures = 0
        self._link = link
        self._note_role(link, role)

    def failed(self, why: str, *, lost: bool = False) -> None:
        """The server doesn't track, or a link was lost as it was asked to."""
        self._failures += 1
        if lost and self._failures < _ATTEMPTS:
            return
        self._available = False
        self._watching.poll()
        logger.warning(
            "sessions: %s doesn't say which keys change (%s): there are no near copies, and "
            "open sockets learn within 5 seconds that their session has ended",
            self._dialer.where,
            why,
        )

    # -- the heartbeat

    def _beat_later(self) -> None:
        me = weakref.ref(self)

        def beat() -> None:
            if (here := me()) is not None:
                here._beat()

        self._beating = self._loop.call_later(self._bound / 3, beat, context=self._context)

    def _beat(self) -> None:
        self._beating = None
        now, link = self._loop.time(), self._link
        if self.copies is not None and now - self._used_at > _IDLE:
            self.copies.forget_all(None)
        if not self._available or not (self._watching or self.copies):
            return  # `next_parts` begins again... 
        if link is not None and self._beat_at > link.answered and now - self._beat_at > self._bound:
            link.abandon(errors.ConnectionError("no heartbeat"))
        if self._beat_at <= ...:
            beat = self._heartbeats.submit(IndexCommand("", ("ROLE",)), 64)
        self._beat_later()

"""What a server tells of keys that were read or written over one link (`CLIENT TRACKING`).

With RESP3 a notice comes over the same connection as the replies, in one order with them. So there
is no race between a reply and a notice, and copies live and die with the link that read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any, Final, TypeGuard

from redis import exceptions as errors

from redis_sessions.connect.dialer import Dialer
from redis_sessions.connect.failures import translate
from redis_sessions.connect.health import Health
from redis_sessions.connect.link import Link
from redis_sessions.connect.loops import call_later
from redis_sessions.connect.resp import UNEXPECTED_REPLY, Command
from redis_sessions.connect.sender import Sender
from redis_sessions.errors import StoreUnavailableError
from redis_sessions.events import logger
from redis_sessions.session.record import is_tombstone
from redis_sessions.stores.commands import IndexCommand, Item, Write
from redis_sessions.stores.copies import SWAPS, Copies, OwnWrites, swaps_in
from redis_sessions.stores.protocols import STORED, NearCopy
from redis_sessions.stores.queues import ItemQueue
from redis_sessions.stores.watching import POLL, Watching

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
    server is asked for its role three times in that time, as long as there are copies that somebody
    uses, or watched keys. If keys are watched, and it doesn't answer two such questions in a row,
    the link is left for another one.

    `redirects` are errors by which a node of a Cluster says that it doesn't serve a key. A node
    that was cut off from the others still calls itself a primary. So it is asked for a key, too.
    Any other server is asked whether it has swapped databases, of which it tells nothing itself.
    """

    attempts = 0
    until = _NEVER
    # Without NOLOOP. With it a server whose table of keys is full (`tracking-table-max-keys`) tells
    # nobody of a key that it forgets while it carries out a command of this very link.
    commands: Sequence[Command] = (("HELLO", 3), ("CLIENT", "TRACKING", "ON"), SWAPS, _ROLE)

    def __init__(
        self,
        sender: Sender,
        dialer: Dialer,
        health: Health,
        watching: Watching,
        redirects: tuple[type[Exception], ...] = (),
    ) -> None:
        self._sender = sender
        self._dialer = dialer
        self._watching = watching
        self._bound = bound = watching.bound
        self.copies = Copies() if watching.keeps_copies else None
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # that of no request
        self._heartbeats = ItemQueue[str | None, None](
            sender, _questions, self._read_answers, health, bound
        )
        self._redirects = redirects
        self._served: str | None = None  # a key that it has served, if it could redirect
        self._own = OwnWrites()
        self._asked: Link | None = None  # the link that was asked to track
        self._link: Link | None = None  # the link that does
        self._watches = False  # whether something that is watched was read over it
        self._swaps: bytes | None = None  # how often its server has swapped databases
        self._proven = _NEVER  # all notices of before have been read
        self._used_at = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Future[None] | None = None
        self._unanswered = 0
        self._failures = 0
        self._retry_at = _NEVER
        self._lost_asked: str | None = None  # why the last link was lost, if it had been asked
        self._read_at = _NEVER  # all that is watched
        self._retrying: asyncio.TimerHandle | None = None
        self._warned = False
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
        if self._redirects and not isinstance(values[0], Exception):
            self._served = keys[0]
        if link is None or self._sender.answering is not link:
            if self._lost_asked is not None:  # it answers if it isn't asked to track
                self._fail(self._lost_asked)
            if self._watching and any(key in self._watching for key in keys):
                # Nobody tells of its next change: it is read again when the link may be asked.
                self._read_watched_later(max(self._bound / 3, self._retry_at - self._loop.time()))
            return
        if copies is not None:
            copies.forget_all(self._own.untold())
            for key, value in zip(keys, values, strict=True):
                if value.__class__ is bytes and not is_tombstone(value):
                    known = copies.get(key)
                    if known is None or known.value != value:
                        copies.put(key, NearCopy(value), link.answered)
                else:
                    copies.forget(key)
            self._use()
        if self._watching and not self._watches and any(key in self._watching for key in keys):
            self._watches = True
            self._use()

    def note_writes(self, items: Sequence[Item], answers: Sequence[Any]) -> None:
        """Keep copies of records that were stored over the link. Any other write is a notice."""
        copies, link = self.copies, self._link
        if copies is None and not self._watching:
            return
        if link is None or self._sender.answering is not link:
            self.note_changes([item.key for item in items if _changes_copy(item)])
            return
        if copies is not None:
            copies.forget_all(self._own.untold())
            for item, answer in zip(items, answers, strict=True):
                if not isinstance(item, Write):
                    continue
                lives = answer is STORED and not is_tombstone(item.value)
                if lives and self._own.expect(item.key, link.answered):
                    copies.put(item.key, NearCopy(item.value), link.answered)
                    if self._redirects:
                        self._served = item.key
                else:
                    copies.forget(item.key)
            self._use()
        if self._watching:
            self._watching.read([item.key for item in items if isinstance(item, Write)])

    def note_changes(self, keys: Sequence[str]) -> None:
        """Note that this process has changed these keys, perhaps over another link."""
        if self.copies is not None and self._asked is not None:
            now = self._loop.time()
            for key in keys:
                self.copies.forget_at(key, now)
        self._watching.read(keys)

    def _use(self) -> None:
        """Note that something depends on the link's notices."""
        self._used_at = self._loop.time()
        if self._timer is None:
            self._timer = call_later(self._bound / 3, self, Tracking._tick)

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
        if self._link is not None:  # it was left, and may have had notices that nobody has read
            self._leave_link()
        self._asked = self._sender.link
        return [self]

    def on_replies(self, replies: list[Any]) -> bool:
        """Take the answer to the question."""
        if self._sender.answering is not self._asked:  # another link has been asked meanwhile
            return True
        needed = (*replies[:2], replies[-1])  # without INFO no swap is noticed
        refusal = next((r for r in needed if isinstance(r, errors.RedisError)), None)
        if refusal is not None:
            said = translate(self._dialer.where, refusal)
            if isinstance(said, StoreUnavailableError) and said.reason == "server":  # it is busy
                self._ask_later(self._bound / 3)
                self._read_watched_later(self._bound / 3)
            else:
                self._fail(str(refusal), counts=_ATTEMPTS)
            return True
        self._link, self._swaps = self._asked, swaps_in(replies[-2], None)
        return self._note_role(replies[-1])

    def on_failure(self, error: BaseException) -> None:
        """Ask again. Some proxies close a connection at a command that they don't know.

        Or the server is away. So this counts as a failure once it has answered something else.
        """
        if self._link is not None:  # another link has been asked meanwhile
            return
        self._asked = None
        if getattr(error, "reason", None) in ("connection", "protocol"):
            self._ask_later(self._bound / 3)
            self._read_watched_later(self._bound / 3)
            self._lost_asked = str(error)

    def _fail(self, why: str, *, counts: int = 1) -> None:
        """Ask once more in a moment, and after some failures in a row only in a minute."""
        self._failures += counts
        if self._failures < _ATTEMPTS:
            self._ask_later(self._bound / 3)
            self._read_watched_later(self._bound / 3)
        else:
            self._ask_later(_PAUSE)
            self._watching.poll(_PAUSE + 2 * POLL)
            if not self._warned:
                self._warned = True
                logger.warning(
                    "sessions: %s doesn't say which keys change (%s): there are no near copies, "
                    "and the sessions of open sockets are read every 5 seconds",
                    self._dialer.where,
                    why,
                )

    def _ask_later(self, seconds: float) -> None:
        """Ask after so many seconds. What is sent until then mustn't be lost with the question."""
        self._asked, self._lost_asked = None, None
        self._retry_at = self._loop.time() + seconds

    def _read_watched_later(self, seconds: float) -> None:
        """Read what is watched, which asks the link as well."""
        if self._watching and self._retrying is None:
            self._retrying = call_later(seconds, self, Tracking._read_watched)

    def _read_watched(self) -> None:
        self._retrying, self._read_at = None, self._loop.time()
        self._watching.read(None)

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
            now, own = self._loop.time(), self._own
            by_others = None if names is None else [n for n in names if not own.is_told(n, now)]
            self.copies.forget_all(by_others)
        self._watching.read(names)
        return True

    def on_lost(self, link: Link) -> None:
        """All copies go with their link, and all watched keys count as changed."""
        if link is self._link:
            self._leave_link()

    def _leave_link(self) -> None:
        self.close()
        pause = self._read_at + self._bound / 3 - self._loop.time()
        if pause > 0:  # the server may close every link
            self._read_watched_later(pause)
        else:
            self._read_watched()

    def close(self) -> None:
        """Expect nothing of the link any more, and do nothing by oneself."""
        self._link, self._asked, self._proven, self._watches = None, None, _NEVER, False
        self._beat = None
        self._own = OwnWrites()
        self.forget_copies()
        for timer in (self._timer, self._retrying):
            if timer is not None:
                timer.cancel()
        self._timer = self._retrying = None

    # -- the heartbeat

    def _tick(self) -> None:
        self._timer = None
        link = self._link
        if link is None:
            return
        if link.retired:
            self._leave_link()
            return
        if self._watches and self._watching:
            self._used_at = self._loop.time()
        elif self._loop.time() - self._used_at > _IDLE:
            self._rest(link)
            return
        if self._beat is None or self._beat.done():
            self._unanswered = 0
            self._beat = self._heartbeats.submit(self._served, 64)
            self._beat.add_done_callback(_retrieve, context=self._context)
        else:
            # Turns are counted, and not seconds, since this loop itself may have been busy.
            self._unanswered += 1
            if self._unanswered == 2 and self._watching:
                link.abandon(errors.ConnectionError("no answer to a heartbeat"))
                return
        self._timer = call_later(self._bound / 3, self, Tracking._tick)

    def _rest(self, link: Link) -> None:
        """Nothing depends on the link's notices, until something is read over it again."""
        self.forget_copies()
        self._watches = False
        if self.copies is None and not self._watching:
            link.retire()  # the next one doesn't track
            self._link = self._asked = None

    def _read_answers(self, keys: Sequence[str | None], replies: list[Any]) -> list[None]:
        if self._link is not None and self._sender.answering is self._link:
            refused = any(isinstance(reply, self._redirects) for reply in replies)
            before, self._swaps = self._swaps, swaps_in(replies[0], self._swaps)
            if refused or self._swaps != before:
                self._served = None
                self.forget_copies()
                self._watching.read(None)
            if not refused:
                self._note_role(replies[-1])
        return [None] * len(keys)

    def _note_role(self, reply: Any) -> bool:
        """Note that the server has answered, and whether it is a primary. False: it is no reply."""
        link = self._link
        assert link is not None
        if isinstance(reply, errors.RedisError):  # such as LOADING: it proves nothing
            return True
        if not isinstance(reply, list) or not reply:
            return False
        if reply[0] == b"master":
            self._prove(link.answered)
        else:
            link.retire()
            self._leave_link()
            self._fail("it is a replica")
        return True

    def _prove(self, sent: float) -> None:
        """Note that a primary has answered what was sent at this time."""
        if self._proven == _NEVER:
            self._use()
            if self._failures:  # what is watched was read meanwhile, and not tracked
                self._watching.read(None)
        self._failures, self._retry_at, self._warned = 0, _NEVER, False
        self._lost_asked = None
        self._proven = sent
        if self.copies is not None:
            self.copies.answered(sent)
            self._own.answered(sent)


def _questions(keys: Sequence[str | None]) -> list[Command]:
    """The commands of heartbeats: a key, if there is one, else the swaps; and the role."""
    return [*(SWAPS if key is None else ("GETRANGE", key, 0, 0) for key in keys), _ROLE]


def _changes_copy(item: Item) -> TypeGuard[Write | IndexCommand]:
    """Whether this item writes what is read as records are."""
    return isinstance(item, Write) or (isinstance(item, IndexCommand) and item.weight == "entry")


def _retrieve(future: asyncio.Future[None]) -> None:
    """Take a heartbeat's error, which others report, so that asyncio doesn't log it."""
    if not future.cancelled():
        future.exception()

"""Ends and rotations that a server acknowledged lately, and may have lost since: sent once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from redis_sessions.connect.link import Part
from redis_sessions.connect.resp import UNEXPECTED_REPLY, Command, pack, read_reply
from redis_sessions.session.record import (
    TOMBSTONE_TTL,
    is_change,
    is_tombstone,
    rotated_at,
    tombstone,
)
from redis_sessions.stores.commands import COMMIT, EARLIER, END, Item, Write
from redis_sessions.stores.dialects import Dialect
from redis_sessions.stores.protocols import GONE, STORED

__all__ = ["Repeat", "Repeats"]

LIMIT: Final = 512
"""The most ends and rotations that are kept."""
MAX_BYTES: Final = 1024 * 1024
"""The most bytes of all records that are kept."""
LARGE: Final = 16 * 1024
"""The most bytes of one record that is kept."""
AT_ONCE: Final = 128 * 1024
"""The most bytes that are sent in one piece before a batch. 512 ends fit into one piece."""


class Repeat(NamedTuple):
    """A write that is to be repeated: an end, a rotation with its record, or one without it."""

    write: Write
    expires: float = inf
    """When the record expires, on `time.monotonic`; infinite without a record."""

    def to_send(self) -> Write:
        """The write as it is to be sent now: a record has what is left of its TTL."""
        if self.expires == inf:
            return self.write
        left = int((self.expires - monotonic()) * 1000)
        return replace(self.write, ttl=left) if left > 0 else self.without_record().write

    def without_record(self) -> Repeat:
        """The same rotation, but one that ends the id.

        The token that was replaced must not open the session in any case.
        """
        value = tombstone(rotated_at(self.write.value))
        return Repeat(Write(self.write.key, EARLIER, value, TOMBSTONE_TTL * 1000))


class Repeats:
    """The last ends and rotations that one server acknowledged to one event loop.

    A failover could undo them. So each new connection, which may lead to a server that took over
    or that came back with older data, is sent all of them first. Those that the server refuses
    then (because it waits for replicas, or for room on its disk) are `due`: they are sent before
    the next batch. There are three cases:

    1. An end. An id that ended never lives again, so it is always right to end it once more.
    2. A rotation whose record is kept, as this process wrote it last. The record takes the place
       of a record that was rotated earlier, and changes nothing else.
    3. A rotation whose record isn't kept: it is too large, too many came after it, or it has
       expired. The id ends where a record is stored that was rotated earlier.
    """

    def __init__(self, dialect: Dialect, on_repeated: Callable[[Sequence[str]], None]) -> None:
        self._dialect = dialect
        self._on_repeated = on_repeated  # is called with the keys that may have changed by it
        self._kept: dict[str, Repeat] = {}
        self._sizes: dict[str, int] = {}  # of the records, by key
        self._bytes = 0
        self._refused = False  # whether the server refused all of the last piece
        self.due: dict[str, None] = {}
        """The keys of those that are still to be sent, in this order."""

    def note(self, items: Sequence[Item], answers: Sequence[Any]) -> None:
        """Keep those of the items that are ends or rotations, and that the server carried out."""
        kept = self._kept
        for item, answer in zip(items, answers, strict=True):
            if not isinstance(item, Write):
                continue
            key, expected, value = item.key, item.expected, item.value
            if not expected:  # a new session
                continue
            if is_change(value, expected):
                # It belongs to a rotation that is kept, and keeps that one's place in the order.
                if kept and key in kept and answer is STORED:
                    self._put_record(key, value, item.ttl, in_place=True)
            elif is_tombstone(value):
                if answer is STORED or (expected == END and answer is GONE):
                    self._put(Repeat(replace(item, expected=END)))
            elif answer is STORED:
                self._put_record(key, value, item.ttl)

    def _put_record(self, key: str, value: bytes, ttl: int, *, in_place: bool = False) -> None:
        expires = monotonic() + ttl / 1000
        self._put(Repeat(Write(key, EARLIER, value, ttl), expires), in_place=in_place)

    def add(self, repeat: Repeat) -> None:
        """Keep what another server had acknowledged; it is due here."""
        key = repeat.write.key
        before = self._kept.get(key)
        if before is None or _rank(repeat.write) > _rank(before.write):
            self._put(repeat)
            self.due[key] = None

    def _put(self, repeat: Repeat, *, in_place: bool = False) -> None:
        key, before = repeat.write.key, self._kept.get(repeat.write.key)
        if before is not None and _rank(repeat.write) < _rank(before.write):
            return
        size = 0 if repeat.expires == inf else len(repeat.write.value)
        if size > LARGE:
            repeat, size = repeat.without_record(), 0
        if in_place:
            self.due.pop(key, None)
        else:
            self._forget(key)
        self._kept[key] = repeat
        self._bytes += size - self._sizes.pop(key, 0)
        if size:
            self._sizes[key] = size
        while self._bytes > MAX_BYTES:
            oldest = next(iter(self._sizes))
            self._kept[oldest] = self._kept[oldest].without_record()
            self._bytes -= self._sizes.pop(oldest)
        if len(self._kept) > LIMIT:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: str) -> Repeat | None:
        self.due.pop(key, None)
        self._bytes -= self._sizes.pop(key, 0)
        return self._kept.pop(key, None)

    def pop(self, has_left: Callable[[str], bool]) -> Iterator[Repeat]:
        """Remove those whose key another server has now."""
        for key in [key for key in self._kept if has_left(key)]:
            if (repeat := self._forget(key)) is not None:
                yield repeat

    async def on_connect(self, connection: Any) -> None:
        """Send all of them on a new connection."""
        if not self._kept:
            return
        writes = [repeat.to_send() for repeat in self._kept.values()]
        commands = [("SCRIPT", "LOAD", COMMIT.text), *self.commands(writes)]
        await connection.send_packed_command(pack(commands))
        _, *replies = [await read_reply(connection) for _ in commands]
        self.note_replies(writes, replies)

    def next_parts(self) -> list[Part]:
        """Those that are due, in pieces. If the server refused all of a piece, one piece."""
        pieces, size = [list[Write]()], 0
        for key in self.due:
            write = self._kept[key].to_send()
            size += len(write.key) + len(write.value) + 128
            if pieces[-1] and size > AT_ONCE:
                if self._refused:
                    break
                pieces.append([])
                size = 0
            pieces[-1].append(write)
        return [_Piece(self, writes) for writes in pieces]

    def commands(self, writes: Sequence[Write]) -> list[Command]:
        """The commands that carry out these writes."""
        return self._dialect.writes(writes)

    def note_replies(self, writes: Sequence[Write], replies: Sequence[Any]) -> None:
        """Note which writes are still due, by the replies to `commands`."""
        answers = self._dialect.outcomes(writes, replies)
        done = 0
        for write, answer in zip(writes, answers, strict=True):
            self.due.pop(write.key, None)
            if isinstance(answer, int) or write.key not in self._kept:
                done += 1
            else:
                self.due[write.key] = None  # behind the others
        self._refused = not done
        if done:
            self._on_repeated([write.key for write in writes])


class _Piece:
    """Repeats that are sent in one piece."""

    attempts = 0
    until = -inf

    def __init__(self, repeats: Repeats, writes: Sequence[Write]) -> None:
        self._repeats = repeats
        self._writes = writes
        self.commands: Sequence[Command] = repeats.commands(writes)

    def on_replies(self, replies: list[Any]) -> bool:
        try:
            self._repeats.note_replies(self._writes, replies)
        except UNEXPECTED_REPLY:
            return False
        return True

    def on_failure(self, error: BaseException) -> None:
        """They are still due, and are sent on the next connection."""


def _rank(write: Write) -> int:
    """Of two repeats of one id the greater is kept: an end, else the later rotation."""
    return 1 << 32 if write.expected == END else rotated_at(write.value)

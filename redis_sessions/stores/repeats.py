"""What was answered here lately, and is said again wherever a server may have lost it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple

from redis.exceptions import RedisError

from redis_sessions.session.record import TOMBSTONE_TTL, rotated_at, tombstone
from redis_sessions.stores.commands import (
    COMMIT,
    EARLIER,
    END,
    ROTATED_AT,
    VERSION,
    Command,
    Item,
    Write,
    command_of,
    commit_of,
    packed,
    reply_of,
)
from redis_sessions.stores.protocols import Commit

__all__ = ["Repeat", "Repeats"]

LIMIT: Final = 512
MAX_BYTES: Final = 1024 * 1024
"""Of all records that are kept."""
LARGE: Final = 16 * 1024
"""Bytes of a record above which it isn't kept."""
AT_ONCE: Final = 128 * 1024
"""Bytes of what is due that go ahead of a batch in one piece: all ends, if there are only ends."""

_STORED: Final = Commit.STORED  # which takes longer to look up than the rest of `note`
_GONE: Final = Commit.GONE


class Repeat(NamedTuple):
    """An end, or a rotation with its record; or a rotation that ends the id instead."""

    write: Write
    lapses: float = inf
    """When the record's time is over, on `time.monotonic`."""

    def now(self) -> Write:
        """What is to be sent now: a record with what is left of its TTL."""
        if self.lapses == inf:
            return self.write
        left = int((self.lapses - monotonic()) * 1000)
        return self.write._replace(ttl=left) if left > 0 else self.without_record().write

    def without_record(self) -> Repeat:
        """The same rotation, which ends the id: the replaced token must not open in any case."""
        grave = tombstone(rotated_at(self.write.value))
        return Repeat(Write(self.write.key, EARLIER, grave, TOMBSTONE_TTL * 1000))


class Repeats:
    """The last ends and rotations that one server acknowledged to one event loop.

    A failover could undo them. A server that took over, or came back with older data, hears them
    first of all, on each new connection. What it refuses then (it waits for replicas, or for room
    on its disk) is `due`, ahead of all that it is sent. There are two kinds:

    1. An end. An id that ended never lives again, so that to end it once more is always right.
    2. A rotation. Its record, as this process wrote it last, takes the place of a record that was
       rotated earlier; nothing else is changed by it. Where the record isn't kept (it is too
       large, or too many came after it, or its time is over) the id ends instead.
    """

    def __init__(self, *, sharded: bool) -> None:
        self._sharded = sharded
        self._kept: dict[str, Repeat] = {}
        self._sizes: dict[str, int] = {}  # of those with a record
        self._bytes = 0
        self.due: dict[str, None] = {}
        """The keys of those that the server has yet to hear of."""

    def note(self, items: Sequence[Item], answers: Sequence[Any]) -> None:
        """Remember those of the items that are ends or rotations, and done."""
        kept = self._kept
        for item, answer in zip(items, answers, strict=True):
            if not isinstance(item, Write):
                continue
            key, expected, value, ttl = item
            if not expected:  # a new session
                continue
            if len(value) == VERSION:
                if answer is _STORED or (expected == END and answer is _GONE):
                    self._put(Repeat(item._replace(expected=END)))
            elif answer is _STORED:
                rotates = value[ROTATED_AT] != expected[ROTATED_AT]
                # A change under the token that is kept is as old as its rotation.
                if rotates or (kept and key in kept):
                    lapses = monotonic() + ttl / 1000
                    self._put(Repeat(Write(key, EARLIER, value, ttl), lapses), in_place=not rotates)

    def add(self, repeat: Repeat) -> None:
        """Remember what another server had acknowledged: this one has yet to hear of it."""
        key = repeat.write.key
        before = self._kept.get(key)
        if before is None or _rank(repeat.write) > _rank(before.write):
            self._put(repeat)
            self.due[key] = None

    def _put(self, repeat: Repeat, *, in_place: bool = False) -> None:
        key, before = repeat.write.key, self._kept.get(repeat.write.key)
        if before is not None and _rank(repeat.write) < _rank(before.write):
            return
        size = 0 if repeat.lapses == inf else len(repeat.write.value)
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

    def take(self, gone: Callable[[str], bool]) -> Iterator[Repeat]:
        """Forget those with such a key: another server has it."""
        for key in [key for key in self._kept if gone(key)]:
            if (repeat := self._forget(key)) is not None:
                yield repeat

    async def greet(self, connection: Any) -> None:
        """Say all of them again, on a connection that is new."""
        if not self._kept:
            return
        writes = [repeat.now() for repeat in self._kept.values()]
        commands = [("SCRIPT", "LOAD", COMMIT.text), *self.commands(writes)]
        await connection.send_packed_command(packed(commands))
        _, *replies = [await reply_of(connection) for _ in commands]
        self.heard(writes, replies)

    def some_due(self) -> list[Write]:
        """What of that which is due goes ahead next."""
        writes, size = list[Write](), 0
        for key in self.due:
            write = self._kept[key].now()
            size += len(write.key) + len(write.value) + 128
            if writes and size > AT_ONCE:
                break
            writes.append(write)
        return writes

    def commands(self, writes: Sequence[Write]) -> list[Command]:
        """What says them again."""
        if self._sharded:
            return [command_of(write) for write in writes]
        return [commit_of(writes)] if writes else []

    def heard(self, writes: Sequence[Write], replies: Sequence[Any]) -> int:
        """Note which of them are still due, by the replies to their commands; how many aren't."""
        if not writes:
            return 0
        if self._sharded:
            answers = [r if isinstance(r, RedisError) else r[0] for r in replies]
        else:
            (reply,) = replies
            answers = [reply] * len(writes) if isinstance(reply, RedisError) else reply
        done = 0
        for write, answer in zip(writes, answers, strict=True):
            self.due.pop(write.key, None)
            if isinstance(answer, int) or write.key not in self._kept:
                done += 1
            else:
                self.due[write.key] = None  # behind the others
        return done


def _rank(write: Write) -> int:
    """Of two repeats of one id the greater replaces the other: an end, or the later rotation."""
    return 1 << 32 if write.expected == END else rotated_at(write.value)

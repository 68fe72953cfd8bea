"""What ended here lately, and is ended again wherever a server may have lost it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from redis_sessions.stores.commands import (
    ABSENT,
    COMMIT,
    END,
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

__all__ = ["Endings"]

LIMIT: Final = 512


class Endings:
    """The last ends that one server acknowledged to one event loop: what a failover could undo.

    A server that took over, or came back with older data, hears them first of all, on each new
    connection. What it refuses then (it waits for replicas, or for room on its disk) is `due`,
    ahead of all that it is sent. An id that ended never lives again, so that to end it once more is
    always right.
    """

    def __init__(self, *, sharded: bool) -> None:
        self._sharded = sharded
        self._writes: dict[str, Write] = {}
        self.due: dict[str, Write] = {}
        """Those that the server has yet to hear of, by key."""

    def note(self, items: Sequence[Item], answers: Sequence[Any]) -> None:
        """Remember those of the items that are ends, and done."""
        for item, answer in zip(items, answers, strict=True):
            if (
                isinstance(item, Write)
                and len(item.value) == VERSION
                and item.expected != ABSENT
                and (answer is Commit.STORED or (item.expected == END and answer is Commit.GONE))
            ):
                self.add(item)

    def add(self, write: Write, *, due: bool = False) -> None:
        """Remember an end, and the last ones alone. `due`: it was another server's."""
        self._writes.pop(write.key, None)
        self._writes[write.key] = end = write._replace(expected=END)
        if due:
            self.due[write.key] = end
        if len(self._writes) > LIMIT:
            oldest = next(iter(self._writes))
            del self._writes[oldest]
            self.due.pop(oldest, None)

    def take(self, gone: Callable[[str], bool]) -> Iterator[Write]:
        """Forget those with such a key: another server has it."""
        for key in [key for key in self._writes if gone(key)]:
            self.due.pop(key, None)
            yield self._writes.pop(key)

    async def greet(self, connection: Any) -> None:
        """End them again, on a connection that is new."""
        if not self._writes:
            return
        writes = list(self._writes.values())
        commands = [("SCRIPT", "LOAD", COMMIT.text), *self.commands(writes)]
        await connection.send_packed_command(packed(commands))
        _, *replies = [await reply_of(connection) for _ in commands]
        self.heard(writes, replies)

    def commands(self, writes: Sequence[Write]) -> list[Command]:
        """What ends them."""
        if self._sharded:
            return [command_of(write) for write in writes]
        return [commit_of(writes)] if writes else []

    def heard(self, writes: Sequence[Write], replies: Sequence[Any]) -> None:
        """Note which of them are still due, by the replies to their commands."""
        if self._sharded:
            answers = [r if isinstance(r, RedisError) else r[0] for r in replies]
        else:
            (reply,) = replies
            answers = [reply] * len(writes) if isinstance(reply, RedisError) else reply
        for write, answer in zip(writes, answers, strict=True):
            if isinstance(answer, int) or write.key not in self._writes:
                self.due.pop(write.key, None)
            else:
                self.due[write.key] = write

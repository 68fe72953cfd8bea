"""What ended here lately, and is ended again wherever a server may have lost it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from redis_sessions.stores.commands import (
    ABSENT,
    COMMIT,
    END,
    VERSION,
    Command,
    Item,
    Write,
    packed,
    reply_of,
)
from redis_sessions.stores.protocols import Commit

__all__ = ["Endings"]

LIMIT: Final = 512


class Endings:
    """The last ends that one server acknowledged to one event loop: what a failover could undo.

    A server that took over, or came back with older data, hears them first of all, on each new
    connection. An id that ended never lives again, so that to end it once more is always right.
    """

    def __init__(self, *, sharded: bool) -> None:
        self._sharded = sharded
        self._writes: dict[str, Write] = {}

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

    def add(self, write: Write) -> None:
        """Remember an end, and the last ones alone."""
        self._writes.pop(write.key, None)
        self._writes[write.key] = write._replace(expected=END)
        if len(self._writes) > LIMIT:
            del self._writes[next(iter(self._writes))]

    def take(self, gone: Callable[[str], bool]) -> Iterator[Write]:
        """Forget those with such a key: another server has it."""
        for key in [key for key in self._writes if gone(key)]:
            yield self._writes.pop(key)

    async def greet(self, connection: Any) -> None:
        """End them again, on a connection that is new."""
        if not self._writes:
            return
        commands = [("SCRIPT", "LOAD", COMMIT.text), *self._commands()]
        await connection.send_packed_command(packed(commands))
        for _ in commands:
            await reply_of(connection)  # what it refuses now, it refuses of what follows, too

    def _commands(self) -> list[Command]:
        writes = list(self._writes.values())
        if self._sharded:
            return [COMMIT.call([write.key], write[1:]) for write in writes]
        arguments = [part for write in writes for part in write[1:]]
        return [COMMIT.call([write.key for write in writes], arguments)]

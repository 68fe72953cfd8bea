"""Batches of items as commands, and what the replies to them mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from redis import exceptions as errors

from redis_sessions.connect.failures import translate, unexpected_reply
from redis_sessions.connect.resp import UNEXPECTED_REPLY, Command
from redis_sessions.stores.commands import COMMITS, Item, Write, answer_of, command_of, verdict
from redis_sessions.stores.dialects import Dialect
from redis_sessions.stores.durability import Durability
from redis_sessions.stores.protocols import Commit, Written

__all__ = ["ReplyReader", "alone", "asking", "waiting"]

T = TypeVar("T")

Commands = Callable[[Sequence[T]], list[Command]]
Read = Callable[[Sequence[Any], list[Any]], list[Any]]

NoteWrites = Callable[[Sequence[Any], Sequence[Any]], None]

_STORED: Final = frozenset({bytes, type(None)})
# WAIT answers so where the server is a replica, or became one while WAIT waited.
_NOT_PRIMARY: Final = ("WAIT cannot be used with replica", "UNBLOCKED")


def alone(items: Sequence[Item]) -> list[Command]:
    """A command for each item."""
    return [command_of(item) for item in items]


def asking(items: Sequence[Item]) -> list[Command]:
    """A command for each item, for a node that doesn't have the slot yet."""
    return [part for item in items for part in (("ASKING",), command_of(item))]


def waiting(durability: Durability, commands: Commands[T]) -> Commands[T]:
    """These commands, and one that waits until replicas have what they write."""
    return lambda items: [*commands(items), durability.command]


def _forget(items: Sequence[Any], answers: Sequence[Any]) -> None:
    pass


class ReplyReader:
    """Reads the replies of one server. An item's answer may be an exception.

    `note_writes` is called with items and their answers, some of which may be writes.

    Each method takes the items of a batch, and the replies to its commands. It raises `StoreError`
    if all of the batch failed.
    """

    def __init__(
        self,
        where: str,
        dialect: Dialect,
        note_writes: NoteWrites = _forget,
        durability: Durability | None = None,
    ) -> None:
        self._where = where
        self._note_writes = note_writes
        self._redirects = dialect.redirects
        self._durability = durability

    def values(self, keys: Sequence[str], replies: list[Any]) -> Sequence[bytes | None]:
        """What is stored under each key, from the reply to MGET."""
        values: Any = replies[0]
        if isinstance(values, errors.RedisError):
            raise translate(self._where, values) from values
        if values.__class__ is not list or not _STORED.issuperset(map(type, values)):
            raise unexpected_reply(self._where)
        if len(values) == len(keys):
            return values
        unique = dict.fromkeys(keys)  # as `Dialect.reads` has it
        if len(values) != len(unique):
            raise unexpected_reply(self._where)
        found: dict[str, bytes | None] = dict(zip(unique, values, strict=True))
        return [found[key] for key in keys]

    def outcomes(self, writes: Sequence[Write], replies: list[Any]) -> list[Any]:
        """What became of each write, from the reply to one call of the script."""
        (reply,) = replies
        if isinstance(reply, errors.RedisError):
            error = translate(self._where, reply)
            self._note_writes(writes, [error] * len(writes))
            raise error from reply
        try:
            answers: list[Any] = [*map(COMMITS.get, reply)]
            if None in answers:
                answers = [*map(self._verdict, reply)]
        except UNEXPECTED_REPLY as exc:
            raise unexpected_reply(self._where) from exc
        if len(answers) != len(writes):
            raise unexpected_reply(self._where)
        self._note_writes(writes, answers)
        return answers

    def _verdict(self, answer: Any) -> Written[Commit] | Exception:
        found = verdict(answer)
        return found if isinstance(found, Written) else translate(self._where, found)

    def answers(self, items: Sequence[Item], replies: list[Any]) -> list[Any]:
        """The answer to each item, from the replies to a command for each."""
        answers = [self._answer(*pair) for pair in zip(items, replies, strict=True)]
        self._note_writes(items, answers)
        return answers

    def answers_asking(self, items: Sequence[Item], replies: list[Any]) -> list[Any]:
        """The same, where ASKING was sent before each of them."""
        return self.answers(items, replies[1::2])

    def waited(self, read: Read) -> Read:
        """As `read`, for a batch behind which `WAIT` was sent."""

        def read_and_judge(items: Sequence[Any], replies: list[Any]) -> list[Any]:
            confirmed = replies.pop()
            return self._judge(items, read(items, replies), confirmed)

        return read_and_judge

    def _judge(self, items: Sequence[Item], answers: list[Any], confirmed: Any) -> list[Any]:
        assert self._durability is not None
        if isinstance(confirmed, errors.RedisError):
            if not any(words in str(confirmed) for words in _NOT_PRIMARY):
                raise translate(self._where, confirmed) from confirmed
            confirmed = 0  # the server is no primary any more: no replica has the writes
        if not isinstance(confirmed, int):
            raise unexpected_reply(self._where)
        return self._durability.judge(items, answers, confirmed)

    def _answer(self, item: Item, reply: Any) -> Any:
        try:
            answer = answer_of(item, reply)
        except UNEXPECTED_REPLY:
            return unexpected_reply(self._where)
        if isinstance(answer, errors.RedisError) and not isinstance(answer, self._redirects):
            return translate(self._where, answer)
        return answer

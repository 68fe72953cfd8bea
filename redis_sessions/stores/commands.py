"""What a store asks a server: reads, compare-and-sets, and questions to an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, cast

import hiredis
from redis.exceptions import RedisError, ResponseError

from redis_sessions.stores.protocols import Commit

__all__ = [
    "ABSENT",
    "COMMIT",
    "EARLIER",
    "END",
    "NONSENSE",
    "ROTATED_AT",
    "VERSION",
    "Command",
    "Item",
    "Question",
    "Script",
    "Weight",
    "Write",
    "answer_of",
    "command_of",
    "commit_of",
    "packed",
    "reply_of",
    "verdict",
]

Command = tuple[Any, ...]
Weight = Literal["read", "touch", "lifecycle"]

ABSENT: Final = b""
END: Final = b"*"
EARLIER: Final = b"<"
NONSENSE: Final = (AttributeError, LookupError, TypeError, ValueError)
"""What reading a reply raises that is of another form than its command's."""

VERSION: Final = 33
"""Bytes of a record's header, and of a whole tombstone."""
ROTATED_AT: Final = slice(5, 9)
"""Where a header says when its token replaced another."""

# Its stub says one argument.
_pack: Final = cast("Callable[[Command], bytes]", getattr(hiredis, "pack_command"))  # noqa: B009

# Calling the enum costs five times as much.
_COMMITS: Final = {commit.value: commit for commit in Commit}


class Script:
    """A Lua script; a command that calls it."""

    def __init__(self, file: str) -> None:
        self.text = (files("redis_sessions.stores") / file).read_bytes()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], arguments: Sequence[Any]) -> Command:
        """The command that runs it by name; a server that doesn't know the name is told."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


COMMIT: Final = Script("commit.lua")


class Write(NamedTuple):
    """One item of the commit script."""

    key: str
    expected: bytes
    """The version that must be there; `ABSENT`, `END`, or `EARLIER`."""
    value: bytes
    ttl: int


class Question(NamedTuple):
    """A command to one index, or other key."""

    key: str
    command: Command
    weight: Weight = "read"
    """What a failover would lose with it."""


Item = str | Write | Question
"""A key to read, or one of the others."""


def command_of(item: Item) -> Command:
    """The command that is about this item alone."""
    if isinstance(item, str):
        return "GET", item
    return item.command if isinstance(item, Question) else COMMIT.call([item.key], item[1:])


def commit_of(writes: Sequence[Write]) -> Command:
    """The command that is about all of them."""
    items = [part for write in writes for part in write[1:]]
    return COMMIT.call([write.key for write in writes], items)


def answer_of(item: Item, reply: Any) -> Any:
    """What that command's reply is for who asked: an answer, or an error of redis-py.

    Raises one of `NONSENSE`.
    """
    if isinstance(reply, RedisError):
        if isinstance(item, str) and isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
            return None  # as MGET has it: it is no record
        return reply
    if isinstance(item, Write):
        (answer,) = reply
        return verdict(answer)
    if isinstance(item, str) and reply is not None and not isinstance(reply, bytes):
        raise TypeError(reply)
    return reply


def verdict(answer: int | bytes) -> Commit | ResponseError:
    """What the commit script says of one item."""
    if isinstance(answer, int):
        return _COMMITS[answer]
    return ResponseError(answer.decode(errors="replace"))


def packed(commands: Sequence[Command]) -> bytes:
    """What a connection sends."""
    return _pack(commands[0]) if len(commands) == 1 else b"".join(map(_pack, commands))


async def reply_of(connection: Any) -> Any:
    """The next reply that a connection reads, also if it is the error of one command."""
    try:
        return await connection.read_response()
    except ResponseError as exc:
        return exc

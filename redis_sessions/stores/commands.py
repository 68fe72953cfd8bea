"""What a store sends to a server: reads, compare-and-sets, and commands to an index."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import chain
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

import msgspec
from redis.exceptions import RedisError, ResponseError

from redis_sessions.connect.resp import Command, Script
from redis_sessions.stores.protocols import CONFLICT, GONE, STORED, Commit, Written

__all__ = [
    "ABSENT",
    "COMMIT",
    "COMMITS",
    "EARLIER",
    "END",
    "INDEX",
    "LEASE",
    "LOCK",
    "SCHEDULE",
    "SWAP",
    "IndexCommand",
    "Item",
    "Weight",
    "Write",
    "answer_of",
    "command_of",
    "commit_of",
    "script",
    "verdict",
]

Weight = Literal["read", "touch", "lifecycle", "entry"]
"""What a failover would lose with a command: nothing, a touch, a sign-in or revocation; or an entry
of the cache, of which there may be near copies."""

ABSENT: Final = b""
"""In the place of an expected version: nothing must be stored."""
END: Final = b"*"
"""In the place of an expected version: whatever is stored ends."""
EARLIER: Final = b"<"
"""In the place of an expected version: a record must be stored that was rotated earlier."""

COMMITS: Final = {written.result.value: written for written in (STORED, CONFLICT, GONE)}
"""What the commit script's answers mean, unless they are the text of an error."""


def script(file: str) -> Script:
    """A script of this package."""
    return Script((files("redis_sessions.stores") / file).read_bytes())


COMMIT: Final = script("commit.lua")
INDEX: Final = script("index.lua")
LOCK: Final = script("lock.lua")
LEASE: Final = script("lease.lua")
SCHEDULE: Final = script("schedule.lua")
SWAP: Final = script("swap.lua")


class Write(msgspec.Struct, frozen=True, gc=False):
    """One item of the commit script."""

    key: str
    expected: bytes
    """The version that must be stored; or `ABSENT`, `END` or `EARLIER`."""
    value: bytes
    ttl: int
    """Milliseconds."""


class IndexCommand(NamedTuple):
    """A command to one index, or to another key that isn't a record's: a lock, the key notes."""

    key: str
    command: Command
    weight: Weight = "read"


_key: Final = attrgetter("key")
_arguments: Final = attrgetter("expected", "value", "ttl")

Item = str | Write | IndexCommand
"""What a queue holds: a key to read, or one of the others."""


def command_of(item: Item) -> Command:
    """The command for this item alone."""
    if isinstance(item, str):
        return "GET", item
    return item.command if isinstance(item, IndexCommand) else commit_of([item])


def commit_of(writes: Sequence[Write]) -> Command:
    """The command for several writes."""
    arguments = chain.from_iterable(map(_arguments, writes))
    return COMMIT.call([*map(_key, writes)], [*arguments])


def answer_of(item: Item, reply: Any) -> Any:
    """The answer to an item, from the reply to its own command; or an error of redis-py.

    Raises one of `UNEXPECTED_REPLY` if the reply is of another form than the command's.
    """
    if isinstance(reply, RedisError):
        if isinstance(item, str) and isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
            return None  # as MGET has it: such a key is no record
        return reply
    if isinstance(item, Write):
        (answer,) = reply
        return verdict(answer)
    if isinstance(item, str) and reply is not None and not isinstance(reply, bytes):
        raise TypeError(reply)
    return reply


def verdict(answer: int | bytes) -> Written[Commit] | ResponseError:
    """What the commit script's answer to one item means."""
    if isinstance(answer, int):
        return COMMITS[answer]
    return ResponseError(answer.decode(errors="replace"))

"""All that is stored under ids, found by SCAN on each primary. Nothing else waits for it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import AskError, RedisError

from redis_sessions.connect.conversation import Conversation
from redis_sessions.connect.failures import unexpected_reply
from redis_sessions.connect.resp import UNEXPECTED_REPLY
from redis_sessions.errors import ConfigurationError
from redis_sessions.session.record import HEADER_SIZE, version
from redis_sessions.session.token import is_id
from redis_sessions.stores.enumeration import Found
from redis_sessions.stores.servers import Servers

__all__ = ["Place", "indexes", "scan"]

_COUNT: Final = 250
"""The keys that one SCAN looks at, roughly: those of others count. It takes the server far less
than a millisecond."""


@dataclass
class Place:
    """How far a scan has come, for somebody who shows it, or goes on another time.

    A scan that is given a place begins there. A cursor holds on the server that gave it, until that
    is started again.
    """

    server: str = ""
    """The primary, by its address. Empty: the first one."""
    cursor: int = 0
    """What comes next on this primary. 0: all, or nothing more."""
    looked_at: int = 0
    """How many keys of all kinds were looked at, roughly."""
    on_step: Callable[[int], None] | None = None
    """Is called with `looked_at` after each step."""

    def step(self, server: str, cursor: int) -> None:
        """Note one SCAN."""
        self.server, self.cursor, self.looked_at = server, cursor, self.looked_at + _COUNT
        if self.on_step is not None:
            self.on_step(self.looked_at)


async def scan(
    servers: Servers, prefix: str, timeout: float, place: Place | None = None
) -> AsyncGenerator[Sequence[Found], None]:
    """What `Enumerable.scan` gives. `timeout`: seconds for each question to a server."""
    # No index, lock or key of a longer prefix: they have a colon where ids have none.
    pattern = _literally(prefix) + "?" * 20
    async with aclosing(_pages(servers, pattern, timeout, place or Place())) as pages:
        async for server, keys, done in pages:
            try:
                ids = _ids(keys, prefix, done)
                found = await _look_at(server, prefix, ids) if ids else ()
            except UNEXPECTED_REPLY as exc:
                raise unexpected_reply(server.where) from exc
            if found:
                yield found


async def indexes(
    servers: Servers, prefix: str, timeout: float
) -> AsyncGenerator[Sequence[str], None]:
    """The names of all indexes, in pages, of principals and of aliases alike."""
    start = f"{prefix}of:".encode()
    pattern = _literally(prefix) + "of:" + "?" * 32
    async with aclosing(_pages(servers, pattern, timeout, Place())) as pages:
        async for _, keys, _ in pages:
            yield [key[len(start) :].decode("latin-1") for key in keys]


async def _pages(
    servers: Servers, pattern: str, timeout: float, place: Place
) -> AsyncGenerator[tuple[Conversation, list[bytes], frozenset[int]], None]:
    """The keys of each SCAN, with the server that has them, and slots that needn't be looked at."""
    begin = place.server
    async with aclosing(servers.primaries()) as primaries:
        async for connector, done in primaries:
            if begin and connector.where != begin:
                continue  # somebody has looked at it before
            cursor = place.cursor if begin else 0
            begin = ""
            async with Conversation(connector, timeout) as server:
                while True:
                    (reply,) = await server.ask(("SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT))
                    try:
                        next_one, keys = _checked(server, reply)
                        cursor, keys = int(next_one), list(keys)
                    except UNEXPECTED_REPLY as exc:
                        raise unexpected_reply(connector.where) from exc
                    place.step(connector.where, cursor)
                    yield server, keys, done
                    if cursor == 0:
                        break
    if begin:
        raise ConfigurationError("the cursor is of a server that isn't a primary any more")


def _literally(prefix: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", prefix)


def _ids(keys: Iterable[bytes], prefix: str, done: frozenset[int]) -> list[str]:
    """The ids in these keys, without those in slots that were looked at before."""
    ids = [key[len(prefix) :].decode("latin-1") for key in dict.fromkeys(keys)]
    return [
        id for id in ids if is_id(id) and not (done and key_slot(f"{prefix}{id}".encode()) in done)
    ]


async def _look_at(server: Conversation, prefix: str, ids: Sequence[str]) -> list[Found]:
    """What is stored under these ids by now."""
    commands = [
        command
        for key in (prefix + id for id in ids)
        for command in (
            ("GETRANGE", key, 0, HEADER_SIZE - 1),
            ("STRLEN", key),
            ("PTTL", key),
        )
    ]
    replies = iter(await server.ask(*commands))
    found = list[Found]()
    for id, *answers in zip(ids, replies, replies, replies, strict=True):
        # It has moved to another node, where it is found; or it is no string, and no record.
        if any(
            isinstance(a, AskError) or "WRONGTYPE" in str(a)
            for a in answers
            if isinstance(a, RedisError)
        ):
            continue
        header, size, left = (_checked(server, answer) for answer in answers)
        each = Found(id, version(header), int(size), None if left == -1 else int(left))
        if each.size > 0 and each.left != -2:  # else it has ended meanwhile
            found.append(each)
    return found


def _checked(server: Conversation, reply: Any) -> Any:
    """The reply, unless it is an error."""
    if not isinstance(reply, RedisError):
        return reply
    error = server.translate(reply)
    if getattr(error, "reason", None) == "refused":
        raise ConfigurationError(
            f"{error}; to find all sessions a user needs the rights of `redis-sessions acl --role "
            "admin`"
        ) from reply
    raise error from reply

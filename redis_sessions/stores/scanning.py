"""All that is stored under ids, found by SCAN on each primary. Nothing else waits for it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
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

__all__ = ["scan"]

_COUNT: Final = 250
"""The keys that one SCAN looks at, roughly: those of others count. It takes the server far less
than a millisecond."""


async def scan(
    servers: Servers, prefix: str, timeout: float
) -> AsyncGenerator[Sequence[Found], None]:
    """What `Enumerable.scan` gives. `timeout`: seconds for each question to a server."""
    # No index, lock or key of a longer prefix: they have a colon where ids have none.
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "?" * 20
    async with aclosing(servers.primaries()) as primaries:
        async for connector, done in primaries:
            async with Conversation(connector, timeout) as server:
                cursor = 0
                while True:
                    (reply,) = await server.ask(("SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT))
                    try:
                        place, keys = _checked(server, reply)
                        cursor = int(place)
                        ids = _ids(keys, prefix, done)
                        found = await _look_at(server, prefix, ids) if ids else ()
                    except UNEXPECTED_REPLY as exc:
                        raise unexpected_reply(connector.where) from exc
                    if found:
                        yield found
                    if cursor == 0:
                        break


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

"""Commands as a connection sends them, and replies as it reads them (RESP, Redis's protocol)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ResponseError

__all__ = ["UNEXPECTED_REPLY", "Command", "Script", "pack", "read_reply"]

Command = tuple[Any, ...]

UNEXPECTED_REPLY: Final = (AttributeError, LookupError, TypeError, ValueError)
"""What code raises that reads a reply of another form than its command's."""

# Its stub says one argument.
_pack: Final = cast("Callable[[Command], bytes]", getattr(hiredis, "pack_command"))  # noqa: B009


class Script:
    """A Lua script, and the command that calls it."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], arguments: Sequence[Any]) -> Command:
        """The command that runs the script by its hash.

        A server that doesn't know the hash answers NOSCRIPT, and the sender loads the script.
        """
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


def pack(commands: Sequence[Command]) -> bytes:
    """The bytes that a connection sends."""
    return _pack(commands[0]) if len(commands) == 1 else b"".join(map(_pack, commands))


async def read_reply(connection: Any) -> Any:
    """The next reply that a connection reads. The error of one command is returned, not raised."""
    try:
        return await connection.read_response()
    except ResponseError as exc:
        return exc

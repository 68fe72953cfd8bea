"""The token that the browser holds: an id that names a session, and a secret that opens it."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from secrets import token_bytes
from typing import Final

__all__ = ["ID", "SessionToken", "is_id", "is_token"]

ID: Final = slice(20)
"""Where the id is in the text of a token."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{64}", re.ASCII)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{20}", re.ASCII)


is_token: Final = _TOKEN.fullmatch
"""Whether a text spells a token (as a truth value)."""


def is_id(text: object) -> bool:
    """Whether this has the shape of a session's id."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


class SessionToken:
    """64 base64url characters: 20 of id (120 random bits), 44 of secret (264 random bits).

    The id is the end of the Redis key, and may be logged and shown. The whole `value` opens the
    session. Only the browser may know it, so neither `repr` nor `str` shows it.
    """

    # No Struct or dataclass: whatever encodes those would show the value.
    __slots__ = ("id", "value")

    def __init__(self, value: str) -> None:
        self.value: str = value
        self.id: str = value[ID]

    @classmethod
    def generate(cls, id: str | None = None) -> SessionToken:
        """A new token. With `id`, a new secret for this id, as a rotation needs it."""
        if id is None:
            return cls(urlsafe_b64encode(token_bytes(48)).decode())
        return cls(id + urlsafe_b64encode(token_bytes(33)).decode())

    @classmethod
    def parse(cls, text: str) -> SessionToken | None:
        """The token that `text` spells, or None. What is no token never reaches a store."""
        return cls(text) if is_token(text) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SessionToken) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"<SessionToken id={self.id}>"

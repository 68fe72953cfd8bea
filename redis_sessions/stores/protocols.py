"""What a store of sealed records can do. It knows bytes and ids, never tokens or contents."""

from __future__ import annotations

from enum import Enum
from typing import Protocol, cast, runtime_checkable

from redis_sessions.errors import ConfigurationError

__all__ = ["Commit", "SessionStore", "checked_prefix"]


class Commit(Enum):
    """What became of a compare-and-set."""

    STORED = 1
    CONFLICT = 0
    GONE = -1


@runtime_checkable
class SessionStore(Protocol):
    """Where records live. `redis_sessions.testing.StoreConformance` tests an implementation.

    Every operation is atomic, and may be repeated after a lost reply. Each raises
    `StoreUnavailableError` when its outcome is unknown. A value's first 33 bytes are its
    version; a value of exactly 33 bytes is a tombstone.
    """

    prefix: str
    """Before each id; records are bound to it."""

    async def load(self, id: str) -> bytes | None:
        """The stored bytes, or None."""
        ...

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        """Store `value` for `ttl` milliseconds if the stored version is `expected`.

        `expected=None`: if there is nothing. STORED also if the stored version already is
        `value`'s (a retry), after renewing the TTL. GONE: a tombstone, or nothing where
        something was expected. CONFLICT: another version, which stays.
        """
        ...

    async def end(self, id: str, tombstone: bytes, ttl: int) -> bool:
        """Put `tombstone` where a record is, or nothing, for `ttl` milliseconds.

        A tombstone that is there already stays, its TTL renewed. True if a record was ended,
        by this call or by an earlier attempt with the same tombstone.
        """
        ...

    async def connect(self) -> None:
        """Check that the store can be reached and used, and get ready."""
        ...

    async def close(self) -> None:
        """Close what this event loop holds open. The store may be used again afterwards."""
        ...


def checked_prefix(prefix: str) -> str:
    """The prefix, or a `ConfigurationError` that says what to write."""
    given = cast("object", prefix)
    if not isinstance(given, str) or not prefix or not prefix.isascii() or not prefix.isprintable():
        raise ConfigurationError(
            f"prefix={prefix!r}: write printable ASCII, such as 'session:', so that ACL rules "
            "can name it"
        )
    return prefix

"""All sessions of a store: how many there are, and what can be told of each without its token."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from redis_sessions.errors import ConfigurationError, SessionError
from redis_sessions.session.record import key_id, rotated_at
from redis_sessions.session.threads import raise_answered
from redis_sessions.stores.enumeration import Enumerable, Found
from redis_sessions.stores.protocols import SessionStore
from redis_sessions.tracebacks import strip

__all__ = ["StoredSession", "count", "sessions", "told"]

_LATEST: Final = 253_402_300_799
"""The last second of the year 9999. Later ones are no datetime, though Redis takes them."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """What a store tells of one session. Nothing of it is secret, and nothing says whose it is.

    All times are UTC.
    """

    id: str
    """The same as `session.id`."""
    idle_expires_at: datetime | None
    """When it ends unless it is used. None: its key has no TTL, which isn't this library's doing.
    """
    rotated_at: datetime | None
    """When its token last took the place of another one. None: it is the first one."""
    key_id: str
    """Which secret key it is sealed under: 8 hexadecimal digits."""
    size: int
    """The bytes of the sealed record."""


async def sessions(
    store: SessionStore, clock: Callable[[], float]
) -> AsyncGenerator[StoredSession, None]:
    """What `SessionManager.sessions()` gives. `clock`: seconds since the epoch."""
    try:
        try:
            async with aclosing(_pages(store)) as pages:
                async for page in pages:
                    now = clock()
                    for found in page:
                        yield told(found, now)
        except SessionError as exc:
            raise_answered(exc)
    except BaseException as exc:
        strip(exc)
        raise


async def count(store: SessionStore) -> int:
    """What `SessionManager.count()` gives."""
    total = 0
    async with aclosing(_pages(store)) as pages:
        async for page in pages:
            total += len(page)
    return total


async def _pages(store: SessionStore) -> AsyncGenerator[Sequence[Found], None]:
    """The sessions, in pages, without tombstones."""
    if not isinstance(store, Enumerable):
        raise ConfigurationError(
            f"{type(store).__name__} can't find all sessions: it lacks the method scan() of "
            "redis_sessions.stores.enumeration.Enumerable"
        )
    async with aclosing(store.scan()) as pages:
        async for page in pages:
            yield [found for found in page if found.is_record]


def told(found: Found, now: float) -> StoredSession:
    """What is told of a session that was found at this time, in seconds since the epoch."""
    rotated = rotated_at(found.header)
    return StoredSession(
        id=found.id,
        idle_expires_at=None if found.left is None else _time(now + found.left / 1000),
        rotated_at=_time(rotated) if rotated else None,
        key_id=key_id(found.header).hex(),
        size=found.size,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(min(seconds, _LATEST), UTC)

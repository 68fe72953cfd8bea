"""Requests of one principal, and what a failover may lose of its index and records."""

from __future__ import annotations

from typing import Any

from redis_sessions import (
    Answer,
)
from redis_sessions.lifecycle.manager import backend_of
from tests.unit.setting import Setting


async def changed(at: Setting, token: str | None, status: int = 200, **data: Any) -> Answer:
    """A request that sets these keys."""
    session = await at.load(token)
    session.update(data)
    return await at.commit(session, status)


async def visited(at: Setting, token: str) -> Answer:
    """A request that reads."""
    return await at.commit(await at.load(token))


async def lose_the_end(at: Setting, token: str, who: str = "alice") -> None:
    """A revocation whose mark holds, and whose end of the record a failover lost."""
    await backend_of(at.manager).index.mark(who, token[:20])


async def lose_the_entry(at: Setting, who: str = "alice") -> None:
    """The index's server lost this principal's index."""
    at.store.lose_indexes(*(key.index(who) for key in backend_of(at.manager).keyring.keys))


async def ids(at: Setting, who: str = "alice") -> set[str]:
    return {info.id for info in await at.manager.sessions_of(who)}

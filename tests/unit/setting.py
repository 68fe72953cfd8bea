"""A manager over a store in memory, and what the unit tests do with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from redis_sessions import (
    Answer,
    Event,
    Keyring,
    MemoryStore,
    Session,
    SessionManager,
    generate_key,
)
from redis_sessions.testing import Clock, read_session, store_session

KEY: Final = generate_key()
DAY: Final = 24 * 3600
DUE: Final = 301
"""Seconds after which a touch is due."""
ALICE: Final = {"user_id": "alice"}

WHY = "not loaded, says the test"


class Setting:
    """A manager, its store, its clock and what it reported."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.store = MemoryStore(clock=self.clock)
        self.manager = SessionManager(
            self.store,
            Keyring(KEY),
            clock=self.clock,
            on_event=self.events.append,
            **options,
        )

    async def begin(self, data: Mapping[str, Any]) -> str:
        """The token of a stored session."""
        return await store_session(self.manager, data)

    async def load(self, token: str | None) -> Session:
        return await self.manager.load(token)

    async def data(self, token: str | None) -> dict[str, Any]:
        return await read_session(self.manager, token)

    async def commit(self, session: Session, status: int = 200) -> Answer:
        return await self.manager.commit(session, status=status)

    def reported(self, name: str) -> list[str | None]:
        return [event.reason for event in self.events if event.name == name]


def token_of(answer: Answer) -> str:
    assert answer.token is not None
    return answer.token.value


def count(data: dict[str, Any]) -> int:
    data["n"] = data.get("n", 0) + 1
    return int(data["n"])


async def stored(manager: SessionManager, **data: Any) -> str:
    """The token of a session with these data."""
    session = await manager.load()
    session.update(data)
    answer = await manager.commit(session)
    assert answer.token is not None
    return answer.token.value

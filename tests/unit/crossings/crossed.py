"""A setting whose store can be held up, and principals of two keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from redis_sessions import Answer, Commit, MemoryStore, Written
from redis_sessions.lifecycle.manager import backend_of
from tests.unit.setting import Setting


class Delayed(MemoryStore):
    """A store whose answers something may come before."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.loaded: Callable[[], Awaitable[None]] | None = None
        self.committed: Callable[[bytes | None, Commit], Awaitable[None]] | None = None

    async def load(self, id: str) -> bytes | None:
        found = await super().load(id)
        if self.loaded is not None:
            await self.loaded()
        return found

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        written = await super().commit(id, expected, value, ttl)
        if self.committed is not None:
            await self.committed(expected, written.result)
        return written


class Crossed(Setting):
    """A setting whose store can be held up, and another request at hand."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.delayed = Delayed(clock=self.clock)
        self.store = backend_of(self.manager).store = self.delayed

    async def put(self, token: str, changes: Mapping[str, Any]) -> Answer:
        """What another request stores."""
        session = await self.load(token)
        session.update(changes)
        return await self.commit(session)


def second_factor(data: Mapping[str, Any]) -> Any:
    """A principal of two keys: nobody without the second factor."""
    return data.get("user") if data.get("mfa") else None


def either(data: Mapping[str, Any]) -> Any:
    """A principal that two keys may name."""
    return data.get("user") or data.get("guest")

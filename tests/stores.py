"""Stores that fail when a test says so."""

from __future__ import annotations

from redis_sessions import MemoryStore, StoreUnavailableError
from redis_sessions.stores import Commit, Written


class Away(MemoryStore):
    """A store that can go away."""

    away = False

    async def load(self, id: str) -> bytes | None:
        self._check()
        return await super().load(id)

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        self._check()
        return await super().commit(id, expected, value, ttl)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailableError("away", reason="server")

"""A setting whose application is told of sessions that ran out (`on_expired=`)."""

from __future__ import annotations

from typing import Any, Final

from redis_sessions import Expired, SessionManager
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.sweep import sweep as sweep_schedule
from redis_sessions.stores.schedule import SHARDS, schedule_of
from tests.unit.setting import DAY, Setting

WEEK: Final = 7 * DAY


class Expiring(Setting):
    """A setting whose application is told of sessions that ran out."""

    def __init__(self, **options: Any) -> None:
        self.told: list[Expired] = []
        super().__init__(**{"on_expired": self.told.append, **options})

    async def sweep(self) -> list[Expired]:
        """What one sweep tells."""
        before = len(self.told)
        await sweep(self.manager)
        return self.told[before:]

    async def after(self, seconds: float) -> list[Expired]:
        """What is told that much later."""
        await settle(self.manager)
        self.clock.advance(seconds)
        return await self.sweep()

    async def scheduled(self) -> list[str]:
        """The ids in the schedule, once all is due."""
        await settle(self.manager)
        self.clock.advance(400 * DAY)
        found = [await schedule_of(self.store).due(shard, 1000) for shard in SHARDS]
        return [due.id for entries, _ in found for due in entries]


async def sweep(manager: SessionManager) -> None:
    expiry = backend_of(manager).expiry
    assert expiry is not None
    await sweep_schedule(expiry)


async def settle(manager: SessionManager) -> None:
    expiry = backend_of(manager).expiry
    assert expiry is not None
    await expiry.wait_written()

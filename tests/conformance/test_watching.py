"""The conformance suite of stores that tell of changes."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from redis_sessions import MemoryStore
from redis_sessions.testing import WatchConformance
from redis_sessions.testing.conformance import new_id, new_record
from tests.support import LOOPS


@pytest.mark.parametrize("anyio_backend", LOOPS)
class TestMemoryStore(WatchConformance):
    """In this process, on both event loops."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    async def test_a_loop_that_is_closed(self, store: MemoryStore) -> None:
        """Who watched in it is forgotten, and disturbs no write."""
        id, told = new_id(), list[bytes | None]()

        async def watch() -> None:
            store.watch(id, told.append)
            await asyncio.sleep(0)

        await asyncio.to_thread(partial(asyncio.run, watch()))
        assert told == [None]
        await store.commit(id, None, new_record(), 60_000)
        assert store._watchers == {}  # pyright: ignore[reportPrivateUsage] - nothing else shows it
        assert told == [None]

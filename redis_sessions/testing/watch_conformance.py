"""What a store has to do that tells of changes, as tests: use it as `StoreConformance`."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

from redis_sessions.session.record import tombstone, version
from redis_sessions.stores.protocols import Commit, Watchable
from redis_sessions.testing.conformance import new_id, new_record

__all__ = ["WatchConformance"]

MINUTE: Final = 60_000
PATIENCE: Final = 20
"""Seconds within which a change has to be told. As a rule it takes milliseconds."""


class Told:
    """What somebody who watches was told."""

    def __init__(self, store: Watchable, id: str) -> None:
        self.values: list[bytes | None] = []
        self._news = asyncio.Event()
        self.stop = store.watch(id, self._notify)
        assert self.values == []  # never by watch() itself

    def _notify(self, value: bytes | None) -> None:
        self.values.append(value)
        self._news.set()

    async def until(self, value: bytes | None) -> None:
        """Wait until this was the last that was told."""
        async with asyncio.timeout(PATIENCE):
            while not self.values or self.values[-1] != value:
                self._news.clear()
                await self._news.wait()


class WatchConformance:
    """The contract of `Watchable`, one test a clause. The `store` is a `SessionStore`, too."""

    async def test_what_is_stored_is_told_at_first(self, store: Any) -> None:
        """Soon after the call, so that nothing is missed that changed since a load."""
        id, record = new_id(), new_record()
        nothing = Told(store, id)
        await nothing.until(None)
        await store.commit(id, None, record, MINUTE)
        something = Told(store, id)
        await something.until(record)
        nothing.stop()
        something.stop()

    async def test_changes_are_told(self, store: Any) -> None:
        """A creation, a replacement and an end are, with the bytes that are stored then."""
        id, first, second, grave = new_id(), new_record(), new_record(9), tombstone(1)
        told = Told(store, id)
        await told.until(None)
        await store.commit(id, None, first, MINUTE)
        await told.until(first)
        assert (await store.commit(id, version(first), second, MINUTE)).result is Commit.STORED
        await told.until(second)
        await store.end(id, grave, MINUTE)
        await told.until(grave)
        told.stop()

    async def test_an_expiry_is_told(self, store: Any) -> None:
        """Nothing is stored any more: None."""
        id, record = new_id(), new_record()
        await store.commit(id, None, record, MINUTE)
        told = Told(store, id)
        await told.until(record)
        again = new_record()
        await store.commit(id, version(record), again, 1)
        await told.until(None)
        told.stop()

    async def test_all_who_watch_are_told(self, store: Any) -> None:
        """And nobody is told of another id."""
        id, other, record = new_id(), new_id(), new_record()
        everybody = [Told(store, id) for _ in range(20)]
        stranger = Told(store, other)
        await store.commit(id, None, record, MINUTE)
        for told in everybody:
            await told.until(record)
            told.stop()
        await stranger.until(None)
        assert set(stranger.values) == {None}
        stranger.stop()

    async def test_who_has_stopped_is_told_nothing(self, store: Any) -> None:
        """Neither is one who stops at once, and those who go on are told. It may stop twice."""
        id, record = new_id(), new_record()
        stopped, going_on = Told(store, id), Told(store, id)
        stopped.stop()
        stopped.stop()
        await store.commit(id, None, record, MINUTE)
        await going_on.until(record)
        assert stopped.values == []
        going_on.stop()

    async def test_each_event_loop_tells_its_own(self, store: Any) -> None:
        """A change by another thread's loop is told by the loop that watches."""
        id, record = new_id(), new_record()
        told, by = Told(store, id), list[int]()
        await told.until(None)

        def note(_: bytes | None) -> None:
            by.append(threading.get_ident())

        stop = store.watch(id, note)

        async def write() -> None:
            await store.commit(id, None, record, MINUTE)
            there = Told(store, id)
            await there.until(record)
            there.stop()
            await store.close()

        await asyncio.to_thread(asyncio.run, write())
        await told.until(record)
        assert set(by) == {threading.get_ident()}
        told.stop()
        stop()

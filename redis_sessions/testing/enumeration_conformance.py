"""What a store has to do that finds all of its records, as tests: use it as `StoreConformance`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Final

from redis_sessions.session.record import tombstone, version
from redis_sessions.stores.enumeration import Found
from redis_sessions.testing.conformance import new_id, new_record
from redis_sessions.testing.index_conformance import new_key

__all__ = ["EnumerationConformance"]

MINUTE: Final = 60_000


async def found_in(store: Any) -> dict[str, Found]:
    """All that is found, by id. No page is empty."""
    found = dict[str, Found]()
    async with aclosing(store.scan()) as pages:
        async for page in pages:
            assert page
            found |= {each.id: each for each in page}
    return found


async def filled(store: Any, count: int) -> dict[str, bytes]:
    """Store so many records."""
    records = {new_id(): new_record() for _ in range(count)}
    await asyncio.gather(*(store.commit(id, None, r, MINUTE) for id, r in records.items()))
    return records


class EnumerationConformance:
    """The contract of `Enumerable`, one test a clause. The `store` is a `Store`, too."""

    async def test_nothing_is_stored(self, store: Any) -> None:
        """There is no page."""
        assert await found_in(store) == {}

    async def test_what_is_told(self, store: Any) -> None:
        """Of records and tombstones: the id, the version, the size and the time that is left."""
        id, ended, record, grave = new_id(), new_id(), new_record(9), tombstone(1)
        await store.commit(id, None, record, MINUTE)
        await store.commit(ended, None, new_record(), MINUTE)
        await store.end(ended, grave, 2 * MINUTE)
        found = await found_in(store)
        assert {each[:3] for each in found.values()} == {
            (id, version(record), len(record)),
            (ended, grave, len(grave)),
        }
        for name, least, most in ((id, 0, MINUTE), (ended, MINUTE, 2 * MINUTE)):
            left = found[name].left
            assert left is not None
            assert least < left <= most

    async def test_all_are_found(self, store: Any) -> None:
        """However many there are, in pages; also while others come and go."""
        records = await filled(store, 700)

        async def come_and_go() -> None:
            for _ in range(20):
                id, record = new_id(), new_record()
                await store.commit(id, None, record, MINUTE)
                await store.end(id, tombstone(0), 1)

        found, _ = await asyncio.gather(found_in(store), come_and_go())
        assert {id: each.header for id, each in found.items() if id in records} == {
            id: version(record) for id, record in records.items()
        }

    async def test_nothing_else_is_found(self, store: Any) -> None:
        """Neither indexes nor locks, nor what has expired."""
        id, key, over = new_id(), new_key(), new_id()
        await store.commit(id, None, new_record(), MINUTE)
        await store.enter(key, id, age=0, own=-1, ttl=MINUTE, descriptor=b"d")
        async with store.lock(id, wait=1, hold=10):
            await store.end(over, tombstone(0), 1)
            while await store.load(over) is not None:  # noqa: ASYNC110 - no store tells of it
                await asyncio.sleep(0.002)
            found = await found_in(store)
        assert set(found) == {id}

    async def test_who_stops_disturbs_nobody(self, store: Any) -> None:
        """It may be left after a page, and begun anew; several may go on at once."""
        records = await filled(store, 300)
        async with aclosing(store.scan()) as pages:
            first = await anext(pages)
        assert {each.id for each in first} <= set(records)
        several = await asyncio.gather(*(found_in(store) for _ in range(3)))
        assert [set(each) for each in several] == [set(records)] * 3

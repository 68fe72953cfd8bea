"""What every store has to do, as tests: subclass, and give it a `store` fixture.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self): ...

The tests are coroutines: run them with anyio's pytest plugin or pytest-asyncio, in auto mode.
"""

from __future__ import annotations

import asyncio
import time
from secrets import token_bytes
from typing import Final

from redis_sessions.session.record import HEADER_SIZE, tombstone, version
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import Commit, SessionStore

__all__ = ["StoreConformance"]

MINUTE: Final = 60_000


def new_id() -> str:
    """An id that nothing is stored under."""
    return SessionToken.generate().id


def new_record(size: int = 100) -> bytes:
    """Bytes that a store may take for a record, of a version of their own."""
    return token_bytes(HEADER_SIZE + size)


class StoreConformance:
    """The contract of `SessionStore`, one test a clause."""

    async def test_nothing_is_none(self, store: SessionStore) -> None:
        """An id that nothing is stored under loads as None."""
        assert await store.load(new_id()) is None

    async def test_create_and_load(self, store: SessionStore) -> None:
        """What is stored is loaded, byte for byte, and any byte is allowed."""
        id, record = new_id(), new_record() + bytes(range(256))
        assert (await store.commit(id, None, record, MINUTE)).result is Commit.STORED
        assert await store.load(id) == record

    async def test_large_record(self, store: SessionStore) -> None:
        """A record of 100 kB is stored whole."""
        id, record = new_id(), new_record(100_000)
        await store.commit(id, None, record, MINUTE)
        assert await store.load(id) == record

    async def test_create_finds_a_record(self, store: SessionStore) -> None:
        """Creating never overwrites."""
        id, first, second = new_id(), new_record(), new_record()
        await store.commit(id, None, first, MINUTE)
        assert (await store.commit(id, None, second, MINUTE)).result is Commit.CONFLICT
        assert await store.load(id) == first

    async def test_replace(self, store: SessionStore) -> None:
        """The version that is expected is replaced."""
        id, first, second = new_id(), new_record(), new_record(10)
        await store.commit(id, None, first, MINUTE)
        assert (await store.commit(id, version(first), second, MINUTE)).result is Commit.STORED
        assert await store.load(id) == second

    async def test_conflict(self, store: SessionStore) -> None:
        """Another version than the expected one stays."""
        id, first, second = new_id(), new_record(), new_record()
        await store.commit(id, None, first, MINUTE)
        late = await store.commit(id, version(new_record()), second, MINUTE)
        assert late.result is Commit.CONFLICT
        assert await store.load(id) == first

    async def test_gone(self, store: SessionStore) -> None:
        """A version is expected, and there is nothing: it isn't brought back."""
        id = new_id()
        assert (
            await store.commit(id, version(new_record()), new_record(), MINUTE)
        ).result is Commit.GONE
        assert await store.load(id) is None

    async def test_commit_again(self, store: SessionStore) -> None:
        """A commit that is repeated recognises its own write."""
        id, first, second = new_id(), new_record(), new_record()
        for _ in range(2):
            assert (await store.commit(id, None, first, MINUTE)).result is Commit.STORED
        for _ in range(2):
            assert (await store.commit(id, version(first), second, MINUTE)).result is Commit.STORED
        assert await store.load(id) == second

    async def test_commit_again_renews(self, store: SessionStore) -> None:
        """A commit that is repeated renews the time to live."""
        id, other, record = new_id(), new_id(), new_record()
        await store.commit(id, None, record, 40)
        await store.commit(id, None, record, MINUTE)
        await store.commit(other, None, new_record(), 80)
        await self._until_gone(store, other)
        assert await store.load(id) == record

    async def test_commit_finds_a_tombstone(self, store: SessionStore) -> None:
        """Nothing is written over a tombstone, whatever is expected."""
        id, record = new_id(), new_record()
        await store.commit(id, None, record, MINUTE)
        grave = tombstone(0)
        await store.end(id, grave, MINUTE)
        for expected in (None, version(record), grave):
            assert (await store.commit(id, expected, new_record(), MINUTE)).result is Commit.GONE
        assert await store.load(id) == grave

    async def test_end_if_unchanged(self, store: SessionStore) -> None:
        """A tombstone may be committed like a record, and then stands."""
        id, record, grave = new_id(), new_record(), tombstone(1)
        await store.commit(id, None, record, MINUTE)
        stale = await store.commit(id, version(new_record()), grave, MINUTE)
        assert stale.result is Commit.CONFLICT
        for _ in range(2):
            assert (await store.commit(id, version(record), grave, MINUTE)).result is Commit.STORED
        assert await store.load(id) == grave

    async def test_end(self, store: SessionStore) -> None:
        """Ending tells who ended a record, also when it is repeated."""
        id, mine, theirs = new_id(), tombstone(1), tombstone(2)
        await store.commit(id, None, new_record(), MINUTE)
        assert (await store.end(id, mine, MINUTE)).result is True
        assert (await store.end(id, mine, MINUTE)).result is True
        assert (await store.end(id, theirs, MINUTE)).result is False
        assert await store.load(id) == mine

    async def test_end_nothing(self, store: SessionStore) -> None:
        """Ending leaves a tombstone even where nothing is: what is late finds it."""
        id, grave = new_id(), tombstone(7)
        for _ in range(2):  # the second time as if the first answer was lost
            assert (await store.end(id, grave, MINUTE)).result is False
            found = await store.load(id)
            assert found is not None
            assert len(found) == len(grave)
            assert found[:-1] == grave[:-1]
        assert (await store.commit(id, None, new_record(), MINUTE)).result is Commit.GONE

    async def test_end_again_renews(self, store: SessionStore) -> None:
        """A tombstone that stands already stands longer."""
        for lifetime in (40, 400, 4000):  # a busy machine may be too slow for the first
            id, other = new_id(), new_id()
            await store.end(id, tombstone(0), lifetime)
            grave = await store.load(id)
            await store.end(id, tombstone(0), MINUTE)
            await store.end(other, tombstone(0), 2 * lifetime)
            await self._until_gone(store, other)
            if renewed := await store.load(id) == grave is not None:
                break
        assert renewed

    async def test_expiry(self, store: SessionStore) -> None:
        """Records and tombstones go when their time is over."""
        ended, stored = new_id(), new_id()
        await store.end(ended, tombstone(0), 1)
        await store.commit(stored, None, new_record(), 1)
        await self._until_gone(store, ended)
        await self._until_gone(store, stored)

    async def test_one_of_many_wins(self, store: SessionStore) -> None:
        """Of many commits on one version exactly one is stored."""
        id, first = new_id(), new_record()
        await store.commit(id, None, first, MINUTE)
        records = [new_record() for _ in range(40)]
        results = await asyncio.gather(
            *(store.commit(id, version(first), record, MINUTE) for record in records)
        )
        winners = [r for r, c in zip(records, results, strict=True) if c.result is Commit.STORED]
        assert len(winners) == 1
        assert [each.result for each in results].count(Commit.CONFLICT) == 39
        assert await store.load(id) == winners[0]

    async def test_nobody_is_mixed_up(self, store: SessionStore) -> None:
        """Many operations at once each get their own answer, in any order."""
        records = {new_id(): new_record(size) for size in range(300)}
        stored = await asyncio.gather(
            *(store.commit(id, None, record, MINUTE) for id, record in records.items())
        )
        assert {each.result for each in stored} == {Commit.STORED}
        ids = [*records, *reversed(records), *(new_id() for _ in range(50))]
        loaded = await asyncio.gather(*(store.load(id) for id in ids))
        assert loaded == [records.get(id) for id in ids]

    async def test_cancellation(self, store: SessionStore) -> None:
        """Whoever stops waiting disturbs nobody."""
        records = {new_id(): new_record() for _ in range(60)}
        for id, record in records.items():
            await store.commit(id, None, record, MINUTE)
        tasks = [asyncio.ensure_future(store.load(id)) for id in records]
        for ticks in range(3):
            for task in tasks[ticks::6]:
                task.cancel()
            await asyncio.sleep(0)
        loaded = await asyncio.gather(*tasks, return_exceptions=True)
        for value, record in zip(loaded, records.values(), strict=True):
            assert value == record or isinstance(value, asyncio.CancelledError)
        assert [await store.load(id) for id in records] == list(records.values())

    async def test_use_after_close(self, store: SessionStore) -> None:
        """A store may be used again after it was closed."""
        await store.connect()
        id, record = new_id(), new_record()
        await store.commit(id, None, record, MINUTE)
        await store.close()
        assert await store.load(id) in (record, None)
        await store.close()

    async def _until_gone(self, store: SessionStore, id: str) -> None:
        deadline = time.monotonic() + 5
        while await store.load(id) is not None:
            assert time.monotonic() < deadline, "it doesn't expire"
            await asyncio.sleep(0.002)

"""What every index has to do, as tests: subclass, and give it an `index` fixture."""

from __future__ import annotations

import asyncio
from secrets import token_hex
from typing import Final

from redis_sessions.stores.protocols import Entry, Seat, SessionIndex
from redis_sessions.testing.conformance import new_id

__all__ = ["IndexConformance"]

HOUR: Final = 3_600_000


def new_key() -> str:
    """A principal that nobody has."""
    return token_hex(16)


class IndexConformance:
    """The contract of `SessionIndex`, one test a clause."""

    async def _enter(
        self, index: SessionIndex, key: str, *, age: int = 0, own: int = -1, ttl: int = HOUR
    ) -> tuple[str, int]:
        id = new_id()
        seat, at, *_ = await index.enter(key, id, age=age, own=own, ttl=ttl, descriptor=b"d")
        assert seat is Seat.LIVE
        return id, at

    async def _ask(self, index: SessionIndex, key: str, id: str, at: int) -> Seat:
        seat, _ = await index.touch(key, id, authenticated=at, ttl=0, descriptor=b"")
        return seat

    async def _touch(self, index: SessionIndex, key: str, id: str, at: int) -> Seat:
        seat, _ = await index.touch(key, id, authenticated=at, ttl=HOUR, descriptor=b"e")
        return seat

    async def _end_all(
        self, index: SessionIndex, key: str, keep: str | None = None
    ) -> tuple[int, set[str], set[str]]:
        at, ended, again = await index.end_all(key, keep=keep, memory=HOUR)
        return at, set(ended), set(again)

    async def test_nothing(self, index: SessionIndex) -> None:
        """A principal without sessions has no entries."""
        key, id = new_key(), new_id()
        assert list(await index.entries(key)) == []
        assert await self._ask(index, key, id, 1) is Seat.MISSING

    async def test_enter(self, index: SessionIndex) -> None:
        """An entry holds its times and its descriptor, whatever bytes that has."""
        key, id, odd = new_key(), new_id(), bytes(range(256))
        seat, at, size, *_ = await index.enter(key, id, age=5000, own=-1, ttl=HOUR, descriptor=odd)
        assert (seat, size) == (Seat.LIVE, 1)
        assert list(await index.entries(key)) == [Entry(id, at, at + 5000, at + 5000 + HOUR, odd)]

    async def test_principals_are_apart(self, index: SessionIndex) -> None:
        """What happens to one principal's sessions is nothing to another's."""
        one, other = new_key(), new_key()
        id, at = await self._enter(index, other)
        await self._end_all(index, one)
        assert await self._ask(index, other, id, at) is Seat.LIVE

    async def test_enter_again(self, index: SessionIndex) -> None:
        """A sign-in that is repeated stands once."""
        key, id = new_key(), new_id()
        for _ in range(2):
            seat, _, size, *_ = await index.enter(key, id, age=0, own=-1, ttl=HOUR, descriptor=b"")
            assert (seat, size) == (Seat.LIVE, 1)

    async def test_mark(self, index: SessionIndex) -> None:
        """What is marked has ended for good, and isn't listed."""
        key = new_key()
        id, at = await self._enter(index, key)
        assert await index.mark(key, id, ttl=HOUR) is True
        assert await index.mark(key, id, ttl=HOUR) is False
        assert list(await index.entries(key)) == []
        assert await self._ask(index, key, id, at) is Seat.ENDED
        assert await self._touch(index, key, id, at) is Seat.ENDED
        seat, *_ = await index.enter(key, id, age=0, own=-1, ttl=HOUR, descriptor=b"")
        assert seat is Seat.ENDED

    async def test_mark_without_an_entry(self, index: SessionIndex) -> None:
        """A session whose entry was lost can be marked all the same."""
        key, id = new_key(), new_id()
        assert await index.mark(key, id, ttl=HOUR) is False
        assert await self._touch(index, key, id, 1) is Seat.ENDED

    async def test_touch(self, index: SessionIndex) -> None:
        """A touch renews what was seen, not when it was authenticated."""
        key = new_key()
        id, at = await self._enter(index, key, age=5000)
        assert await self._touch(index, key, id, at) is Seat.LIVE
        (entry,) = await index.entries(key)
        assert (entry.authenticated, entry.descriptor) == (at, b"e")
        assert entry.seen >= at + 5000

    async def test_touch_keeps_the_descriptor(self, index: SessionIndex) -> None:
        """A touch without a descriptor leaves the one that is there."""
        key = new_key()
        id, at = await self._enter(index, key)
        await index.touch(key, id, authenticated=at, ttl=HOUR, descriptor=b"")
        (entry,) = await index.entries(key)
        assert entry.descriptor == b"d"

    async def test_authenticated_again(self, index: SessionIndex) -> None:
        """A touch that says how long ago it was authenticated sets the time, and tells it."""
        key = new_key()
        id, at = await self._enter(index, key, age=50_000)
        seat, again = await index.touch(
            key, id, authenticated=at, ttl=HOUR, descriptor=b"", age=1000
        )
        (entry,) = await index.entries(key)
        assert (seat, entry.authenticated) == (Seat.LIVE, again)
        assert again >= at + 49_000

    async def test_lost_entry(self, index: SessionIndex) -> None:
        """A missing entry is written again, unless a revocation came since."""
        key, id = new_key(), new_id()
        assert await self._touch(index, key, id, 1) is Seat.LIVE
        at, ended, _ = await self._end_all(index, key)
        assert ended == {id}
        assert await self._touch(index, key, new_id(), at) is Seat.ENDED
        assert await self._ask(index, key, new_id(), at) is Seat.OVERTAKEN
        assert await self._touch(index, key, new_id(), at + 1) is Seat.LIVE

    async def test_other_keys(self, index: SessionIndex) -> None:
        """What the indexes under other keys said counts: one vouches, or one was overtaken."""
        key, lost = new_key(), new_id()
        at, _, _ = await self._end_all(index, key)
        seat, _ = await index.touch(
            key, lost, authenticated=at, ttl=HOUR, descriptor=b"", vouched=True
        )
        assert seat is Seat.LIVE
        seat, _ = await index.touch(
            key, new_id(), authenticated=at + 9, ttl=HOUR, descriptor=b"", overtaken=True
        )
        assert seat is Seat.ENDED

    async def test_end_all(self, index: SessionIndex) -> None:
        """All are marked but the one that is kept; those just marked are named again."""
        key = new_key()
        ids = [await self._enter(index, key) for _ in range(5)]
        keep, at = ids[0]
        gone = {id for id, _ in ids[1:]}
        _, ended, again = await self._end_all(index, key, keep)
        assert (ended, again) == (gone, set())
        _, ended, again = await self._end_all(index, key, keep)
        assert (ended, again) == (set(), gone)
        assert [entry.id for entry in await index.entries(key)] == [keep]
        assert await self._touch(index, key, keep, at) is Seat.LIVE

    async def test_keep_without_an_entry(self, index: SessionIndex) -> None:
        """The one that is kept lives on though its entry was lost; till then it isn't listed."""
        key, keep = new_key(), new_id()
        at, _, _ = await self._end_all(index, key, keep)
        assert list(await index.entries(key)) == []
        assert await self._ask(index, key, keep, at) is Seat.KEPT
        assert await self._touch(index, key, keep, at) is Seat.LIVE
        assert [entry.id for entry in await index.entries(key)] == [keep]

    async def test_kept_once(self, index: SessionIndex) -> None:
        """The next revocation keeps another, or none."""
        key, keep = new_key(), new_id()
        await self._end_all(index, key, keep)
        at, _, _ = await self._end_all(index, key)
        assert await self._touch(index, key, keep, at) is Seat.ENDED

    async def test_order(self, index: SessionIndex) -> None:
        """No two sign-ins are seen at the same time, in the order in which they came."""
        key = new_key()
        ids = [(await self._enter(index, key))[0] for _ in range(20)]
        entries = sorted(await index.entries(key), key=lambda entry: entry.seen)
        assert [entry.id for entry in entries] == ids
        assert len({entry.seen for entry in entries}) == 20

    async def test_keep_that_has_ended(self, index: SessionIndex) -> None:
        """A mark is for good: the one that is kept doesn't come back by it."""
        key = new_key()
        id, at = await self._enter(index, key)
        await index.mark(key, id, ttl=HOUR)
        await self._end_all(index, key, id)
        assert await self._touch(index, key, id, at) is Seat.ENDED

    async def test_sign_in_before_a_revocation(self, index: SessionIndex) -> None:
        """Whose request began before a revocation isn't signed in after it."""
        key = new_key()
        await self._end_all(index, key)
        seat, *_ = await index.enter(key, new_id(), age=60_000, own=-1, ttl=HOUR, descriptor=b"")
        assert seat is Seat.REFUSED
        assert list(await index.entries(key)) == []

    async def test_sign_in_after_the_own_revocation(self, index: SessionIndex) -> None:
        """Who revokes and then signs in, in one request, is signed in."""
        key = new_key()
        own, _, _ = await self._end_all(index, key)
        id, at = await self._enter(index, key, age=60_000, own=own)
        assert at > own
        assert await self._touch(index, key, id, at) is Seat.LIVE

    async def test_sign_in_after_anothers_revocation(self, index: SessionIndex) -> None:
        """... unless another revoked since."""
        key = new_key()
        own, _, _ = await self._end_all(index, key)
        other = own
        while other == own:  # the clock's millisecond
            other, _, _ = await self._end_all(index, key)
        seat, *_ = await index.enter(key, new_id(), age=60_000, own=own, ttl=HOUR, descriptor=b"")
        assert seat is Seat.REFUSED

    async def test_expiry(self, index: SessionIndex) -> None:
        """Entries go with the writes that come after their time."""
        key = new_key()
        await asyncio.gather(*(self._enter(index, key, ttl=1) for _ in range(20)))
        await self._enter(index, key)
        for _ in range(200):
            await self._enter(index, key)
            if not any(e.expires <= e.seen + 1 for e in await index.entries(key)):
                return
        raise AssertionError("expired entries stay")

    async def test_many(self, index: SessionIndex) -> None:
        """Concurrent sign-ins of one principal all stand."""
        key = new_key()
        ids = await asyncio.gather(*(self._enter(index, key) for _ in range(200)))
        assert {entry.id for entry in await index.entries(key)} == {id for id, _ in ids}
        _, ended, _ = await self._end_all(index, key)
        assert ended == {id for id, _ in ids}

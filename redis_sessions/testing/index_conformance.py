"""What every index has to do, as tests: subclass, and give it an `index` fixture."""

from __future__ import annotations

import asyncio
from math import inf
from secrets import token_hex
from typing import Final

from redis_sessions.stores.protocols import Entry, EntryStatus, SessionIndex
from redis_sessions.testing.conformance import new_id

__all__ = ["IndexConformance"]

HOUR: Final = 3_600_000
MARKS: Final = 256
"""How many marks an index keeps."""


def new_key() -> str:
    """A principal that nobody has."""
    return token_hex(16)


class IndexConformance:
    """The contract of `SessionIndex`, one test a clause."""

    async def _enter(
        self, index: SessionIndex, key: str, *, age: float = 0, own: float = -1, ttl: int = HOUR
    ) -> tuple[str, int]:
        id = new_id()
        entered, _ = await index.enter(key, id, age=age, own=own, ttl=ttl, descriptor=b"d")
        assert entered.status is EntryStatus.LIVE
        return id, entered.authenticated

    async def _touch(self, index: SessionIndex, key: str, id: str, at: int) -> EntryStatus:
        touched, _ = await index.touch(key, id, authenticated=at, ttl=HOUR, descriptor=b"e")
        return touched.status

    async def _now(self, index: SessionIndex, key: str) -> float:
        id, _ = await self._enter(index, key, ttl=HOUR)
        return (await self._entries(index, key))[id].seen

    async def _entries(self, index: SessionIndex, key: str) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        cursor, entries = await index.entries(key)
        found.update((entry.id, entry) for entry in entries)
        while cursor:
            cursor, entries = await index.entries(key, cursor)
            found.update((entry.id, entry) for entry in entries)
        return found

    # -- entries

    async def test_nothing(self, index: SessionIndex) -> None:
        """A principal without sessions has no entries."""
        key = new_key()
        assert await self._entries(index, key) == {}
        assert await index.ask(key, new_id(), authenticated=1) is EntryStatus.MISSING

    async def test_enter(self, index: SessionIndex) -> None:
        """An entry holds its times and its descriptor, whatever bytes that has."""
        key, id, odd = new_key(), new_id(), bytes(range(256))
        entered, _ = await index.enter(key, id, age=5000, own=-1, ttl=HOUR, descriptor=odd)
        assert (entered.status, entered.size, entered.since_revoked) == (EntryStatus.LIVE, 1, inf)
        entry = (await self._entries(index, key))[id]
        assert (entry.authenticated, entry.descriptor) == (entered.authenticated, odd)
        assert int(entry.seen) - entry.authenticated in (4999, 5000)
        assert entry.expires == int(entry.seen) + HOUR

    async def test_principals_are_apart(self, index: SessionIndex) -> None:
        """What happens to one principal's sessions is nothing to another's."""
        one, other = new_key(), new_key()
        id, at = await self._enter(index, other)
        await index.revoke(one, keep=None, memory=HOUR)
        assert await index.ask(other, id, authenticated=at) is EntryStatus.LIVE

    async def test_enter_again(self, index: SessionIndex) -> None:
        """A sign-in that is repeated stands once, at the same time unless that was revoked."""
        key, id, times = new_key(), new_id(), list[int]()
        for age in (0, 60_000, 0):
            entered, _ = await index.enter(key, id, age=age, own=-1, ttl=HOUR, descriptor=b"")
            assert (entered.status, entered.size) == (EntryStatus.LIVE, 1)
            times.append(entered.authenticated)
        revoked, _ = await index.revoke(key, keep=None, memory=HOUR)
        entered, _ = await index.enter(key, id, age=0, own=revoked, ttl=HOUR, descriptor=b"")
        assert times[0] == times[1] == times[2] <= revoked < entered.authenticated

    async def test_order(self, index: SessionIndex) -> None:
        """No two sign-ins are seen at the same time, in the order in which they came."""
        key = new_key()
        ids = [(await self._enter(index, key))[0] for _ in range(20)]
        entries = sorted((await self._entries(index, key)).values(), key=lambda entry: entry.seen)
        assert [entry.id for entry in entries] == ids
        assert len({entry.seen for entry in entries}) == 20

    async def test_touch(self, index: SessionIndex) -> None:
        """It renews what was seen, not when it was authenticated; no descriptor leaves the last."""
        key = new_key()
        id, at = await self._enter(index, key, age=5000)
        before = (await self._entries(index, key))[id].seen
        assert await self._touch(index, key, id, at) is EntryStatus.LIVE
        entry = (await self._entries(index, key))[id]
        assert (entry.authenticated, entry.descriptor) == (at, b"e")
        assert entry.seen > before
        await index.touch(key, id, authenticated=at, ttl=HOUR, descriptor=b"")
        assert (await self._entries(index, key))[id].descriptor == b"e"

    async def test_a_lost_entry(self, index: SessionIndex) -> None:
        """A missing entry is written again, unless a revocation came since."""
        key, id = new_key(), new_id()
        assert await self._touch(index, key, id, 1) is EntryStatus.LIVE
        at = int((await index.revoke(key, keep=None, memory=HOUR)).result)
        assert await self._touch(index, key, new_id(), at) is EntryStatus.ENDED
        assert await index.ask(key, new_id(), authenticated=at) is EntryStatus.ENDED
        assert await self._touch(index, key, new_id(), at + 1) is EntryStatus.LIVE

    async def test_expiry(self, index: SessionIndex) -> None:
        """Entries go with the writes that come after their time."""
        key = new_key()
        await asyncio.gather(*(self._enter(index, key, ttl=1) for _ in range(20)))
        await self._enter(index, key)
        for _ in range(200):
            await self._enter(index, key)
            entries = await self._entries(index, key)
            if not any(e.expires <= e.seen + 1 for e in entries.values()):
                return
        raise AssertionError("expired entries stay")

    async def test_a_short_session_shortens_no_other(self, index: SessionIndex) -> None:
        """What is entered, touched or marked for a moment leaves longer entries as they are."""
        key, brief = new_key(), new_key()
        id, at = await self._enter(index, key)
        await self._enter(index, key, ttl=1)
        await index.touch(key, new_id(), authenticated=at, ttl=1, descriptor=b"")
        await index.mark(key, new_id(), ttl=1)
        await index.revoke(key, keep=id, memory=1)
        await self._enter(index, brief, ttl=50)
        while await self._entries(index, brief):  # noqa: ASYNC110 - nobody tells when it is over
            await asyncio.sleep(0)
        assert id in await self._entries(index, key)
        assert await index.ask(key, id, authenticated=at) is EntryStatus.LIVE

    async def test_a_sign_in_is_not_earlier_than_it_was(self, index: SessionIndex) -> None:
        """Its time is in whole milliseconds: the next one, so that no revocation of before counts.

        A revocation may be known to the principal's index under another key alone.
        """
        for _ in range(5):  # the clock may be at a whole millisecond just then
            key = new_key()
            id, _ = await self._enter(index, key)
            entry = (await self._entries(index, key))[id]
            assert entry.authenticated >= entry.seen

    async def test_many(self, index: SessionIndex) -> None:
        """Concurrent sign-ins of one principal all stand, and are listed some at a time."""
        key = new_key()
        ids = await asyncio.gather(*(self._enter(index, key) for _ in range(1500)))
        assert set(await self._entries(index, key)) == {id for id, _ in ids}

    # -- proving again who one is

    async def test_authenticated_again(self, index: SessionIndex) -> None:
        """An entry goes forward, never back, and a missing entry stays missing."""
        key = new_key()
        id, at = await self._enter(index, key, age=50_000)
        for later, given, shown in ((9, b"", b"d"), (9, b"f", b"f"), (5, b"g", b"f")):
            await index.authenticated(key, id, at=at + later, descriptor=given)
            entry = (await self._entries(index, key))[id]
            assert (entry.authenticated, entry.descriptor) == (at + 9, shown)
        await index.authenticated(key, new_id(), at=at + 9)
        assert set(await self._entries(index, key)) == {id}

    async def test_a_touch_sets_no_time_back(self, index: SessionIndex) -> None:
        """A late touch by the record of before leaves its entry's later time and descriptor."""
        key = new_key()
        id, at = await self._enter(index, key, age=5000)
        await index.authenticated(key, id, at=at + 1000)
        assert await self._touch(index, key, id, at) is EntryStatus.LIVE
        entry = (await self._entries(index, key))[id]
        assert (entry.authenticated, entry.descriptor) == (at + 1000, b"d")

    async def test_an_outdated_record(self, index: SessionIndex) -> None:
        """A record with an earlier sign-in than its entry is outdated, 30 seconds after that."""
        key = new_key()
        id, at = await self._enter(index, key, age=90_000)
        await index.authenticated(key, id, at=at + 50_000)
        assert await index.ask(key, id, authenticated=at) is EntryStatus.OUTDATED
        assert await self._touch(index, key, id, at) is EntryStatus.OUTDATED
        assert await self._touch(index, key, id, at + 50_000) is EntryStatus.LIVE
        await index.authenticated(key, id, at=at + 70_000)
        assert await index.ask(key, id, authenticated=at) is EntryStatus.LIVE

    async def test_a_replaced_token(self, index: SessionIndex) -> None:
        """A record with an earlier rotation than its entry is outdated, 30 seconds after that."""
        key = new_key()
        id, at = await self._enter(index, key)
        now = at // 1000
        for rotation in ((now - 60, 0), (now - 90, now - 95)):  # the second note is late
            await index.authenticated(key, id, at=0, rotation=rotation)
        statuses = [await index.ask(key, id, authenticated=at, rotated=now - n) for n in (61, 60)]
        assert statuses == [EntryStatus.OUTDATED, EntryStatus.LIVE]
        await index.touch(key, id, authenticated=at, ttl=HOUR, descriptor=b"e", rotated=now - 50)
        entry = (await self._entries(index, key))[id]
        assert (entry.rotated, entry.descriptor) == (now - 50, b"e")
        await index.authenticated(key, id, at=0, rotation=(now, now - 50))
        assert await index.ask(key, id, authenticated=at) is EntryStatus.LIVE
        # Another record has taken the place of the first one, which had come back: none counts.
        await index.authenticated(key, id, at=0, rotation=(now + 1, 0))
        status = await index.ask(key, id, authenticated=at, rotated=now + 1)
        assert status is EntryStatus.OUTDATED

    # -- marks

    async def test_mark(self, index: SessionIndex) -> None:
        """What is marked has ended, and isn't listed, whether it had an entry or not."""
        key = new_key()
        id, at = await self._enter(index, key)
        assert (await index.mark(key, id, ttl=HOUR)).result is True
        assert (await index.mark(key, id, ttl=HOUR)).result is False
        assert await self._entries(index, key) == {}
        assert await index.ask(key, id, authenticated=at) is EntryStatus.ENDED
        assert await self._touch(index, key, id, at) is EntryStatus.ENDED
        entered, _ = await index.enter(key, id, age=0, own=-1, ttl=HOUR, descriptor=b"")
        assert entered.status is EntryStatus.ENDED
        id = new_id()
        assert (await index.mark(key, id, ttl=HOUR)).result is False
        assert await self._touch(index, key, id, 1) is EntryStatus.ENDED

    async def test_marks_are_bounded(self, index: SessionIndex) -> None:
        """Of many marks the oldest goes; without entries, those of before it are unsure then."""
        key, first = new_key(), new_id()
        await index.mark(key, first, ttl=HOUR)
        between = await self._now(index, key)
        later = [new_id() for _ in range(MARKS)]
        for id in later[:-1]:
            await index.mark(key, id, ttl=HOUR)
        assert await index.ask(key, first, authenticated=2**52) is EntryStatus.ENDED
        assert await index.ask(key, new_id(), authenticated=1) is EntryStatus.MISSING
        await index.mark(key, later[-1], ttl=HOUR)
        assert await index.ask(key, first, authenticated=2**52) is EntryStatus.MISSING
        for id in later:
            assert await index.ask(key, id, authenticated=2**52) is EntryStatus.ENDED
        before = int(between) - 1000
        assert await index.ask(key, new_id(), authenticated=before) is EntryStatus.UNSURE
        assert await index.ask(key, new_id(), authenticated=int(between) + 1) is EntryStatus.MISSING
        assert await self._touch(index, key, first, before) is EntryStatus.ENDED

    async def test_the_floor_leaves_entries_alone(self, index: SessionIndex) -> None:
        """A session with an entry lives on, and a sign-in isn't refused, however many ended."""
        key = new_key()
        id, at = await self._enter(index, key, age=60_000)
        for _ in range(MARKS + 2):
            await index.mark(key, new_id(), ttl=HOUR)
        assert await index.ask(key, id, authenticated=at) is EntryStatus.LIVE
        assert await self._touch(index, key, id, at) is EntryStatus.LIVE
        other, at = await self._enter(index, key, age=60_000)
        assert await self._touch(index, key, other, at) is EntryStatus.LIVE

    async def test_what_other_keys_say(self, index: SessionIndex) -> None:
        """An entry elsewhere speaks for a session, and doubt elsewhere against it."""
        key = new_key()
        for _ in range(MARKS + 1):
            await index.mark(key, new_id(), ttl=HOUR)
        later = int(await self._now(index, key)) + 5
        for elsewhere, authenticated, expected in (
            (EntryStatus.LIVE, 1, EntryStatus.LIVE),
            (EntryStatus.MISSING, 1, EntryStatus.ENDED),
            (EntryStatus.MISSING, later, EntryStatus.LIVE),
            (EntryStatus.UNSURE, later, EntryStatus.ENDED),
        ):
            touched, _ = await index.touch(
                key,
                new_id(),
                authenticated=authenticated,
                ttl=HOUR,
                descriptor=b"",
                elsewhere=elsewhere,
            )
            assert touched.status is expected

    # -- revocations

    async def test_revoke(self, index: SessionIndex) -> None:
        """All of before are over at once, with an entry or without; who signs in later isn't."""
        key = new_key()
        id, at = await self._enter(index, key)
        revoked, _ = await index.revoke(key, keep=None, memory=HOUR)
        assert await index.ask(key, id, authenticated=at) is EntryStatus.ENDED
        assert await self._touch(index, key, id, at) is EntryStatus.ENDED
        assert await self._touch(index, key, new_id(), at) is EntryStatus.ENDED
        other, later = await self._enter(index, key)
        assert later > revoked
        assert await self._touch(index, key, other, later) is EntryStatus.LIVE

    async def test_signed_in_between_revocations(self, index: SessionIndex) -> None:
        """A session that signs in between two revocations is ended by the second, however soon."""
        key = new_key()
        for _ in range(50):
            for by_oneself in (False, True):
                own, _ = await index.revoke(key, keep=None, memory=HOUR)
                id, at = await self._enter(index, key, own=own if by_oneself else -1)
                assert await index.ask(key, id, authenticated=at) is EntryStatus.LIVE
                await index.revoke(key, keep=None, memory=HOUR)
                assert await index.ask(key, id, authenticated=at) is EntryStatus.ENDED

    async def test_a_time_ahead(self, index: SessionIndex) -> None:
        """A session whose time is ahead of the server's clock is ended by a revocation, too."""
        key, id = new_key(), new_id()
        ahead = int(await self._now(index, key)) + 600_000
        assert await self._touch(index, key, id, ahead) is EntryStatus.LIVE
        assert (await index.revoke(key, keep=None, memory=HOUR)).result > ahead
        assert await index.ask(key, id, authenticated=ahead) is EntryStatus.ENDED
        other, at = await self._enter(index, key)
        assert at > ahead
        assert await index.ask(key, other, authenticated=at) is EntryStatus.LIVE

    async def test_remove(self, index: SessionIndex) -> None:
        """What a revocation has ended is removed; who signed in since is left alone."""
        key = new_key()
        ids = [(await self._enter(index, key))[0] for _ in range(5)]
        revoked, _ = await index.revoke(key, keep=None, memory=HOUR)
        later, _ = await self._enter(index, key)
        await index.remove(key, [*ids, later, new_id()], until=revoked)
        assert set(await self._entries(index, key)) == {later}

    async def test_keep(self, index: SessionIndex) -> None:
        """The one that is kept lives on, also if its entry was lost; it isn't listed by that."""
        key = new_key()
        id, at = await self._enter(index, key)
        await index.revoke(key, keep=id, memory=HOUR)
        assert await self._touch(index, key, id, at) is EntryStatus.LIVE
        lost, key = new_id(), new_key()
        at = int((await index.revoke(key, keep=lost, memory=HOUR)).result)
        assert await self._entries(index, key) == {}
        assert await index.ask(key, lost, authenticated=at) is EntryStatus.MISSING
        assert await self._touch(index, key, lost, at) is EntryStatus.LIVE
        assert set(await self._entries(index, key)) == {lost}

    async def test_kept_again(self, index: SessionIndex) -> None:
        """The next revocation excepts the same one, and it lives on; or another, or none."""
        for other in ("the same", None, new_id()):
            key = new_key()
            id, at = await self._enter(index, key)
            for keep in (id, id, id if other == "the same" else other):
                await index.revoke(key, keep=keep, memory=HOUR)
            status = EntryStatus.LIVE if other == "the same" else EntryStatus.ENDED
            assert await self._touch(index, key, id, at) is status

    async def test_keep_is_no_pardon(self, index: SessionIndex) -> None:
        """What an earlier revocation, or a mark, has ended doesn't come back by being kept."""
        key, id = new_key(), new_id()
        at = int((await index.revoke(key, keep=None, memory=HOUR)).result)
        await index.revoke(key, keep=id, memory=HOUR)
        assert await self._touch(index, key, id, at) is EntryStatus.ENDED
        id, at = await self._enter(index, key)
        await index.mark(key, id, ttl=HOUR)
        await index.revoke(key, keep=id, memory=HOUR)
        assert await self._touch(index, key, id, at) is EntryStatus.ENDED

    async def test_sign_in_before_a_revocation(self, index: SessionIndex) -> None:
        """Whose request began before a revocation isn't signed in after it."""
        key = new_key()
        await index.revoke(key, keep=None, memory=HOUR)
        entered, _ = await index.enter(key, new_id(), age=60_000, own=-1, ttl=HOUR, descriptor=b"")
        assert entered.status is EntryStatus.REFUSED
        assert await self._entries(index, key) == {}
        # (who signs in right after it is told how long ago it was)
        entered, _ = await index.enter(key, new_id(), age=0, own=-1, ttl=HOUR, descriptor=b"")
        assert entered.status is EntryStatus.LIVE
        assert 0 < entered.since_revoked < HOUR

    async def test_sign_in_after_the_own_revocation(self, index: SessionIndex) -> None:
        """Who revokes and then signs in, in one request, is signed in."""
        key, id = new_key(), new_id()
        own, _ = await index.revoke(key, keep=None, memory=HOUR)
        entered, _ = await index.enter(key, id, age=60_000, own=own, ttl=HOUR, descriptor=b"d")
        assert (entered.status, entered.since_revoked) == (EntryStatus.LIVE, inf)
        assert entered.authenticated > own
        assert await self._touch(index, key, id, entered.authenticated) is EntryStatus.LIVE

    async def test_sign_in_after_anothers_revocation(self, index: SessionIndex) -> None:
        """... unless another revoked since, however young the request is."""
        for age in (60_000, 0):
            key = new_key()
            own, _ = await index.revoke(key, keep=None, memory=HOUR)
            await index.revoke(key, keep=None, memory=HOUR)
            entered, _ = await index.enter(
                key, new_id(), age=age, own=own, ttl=HOUR, descriptor=b""
            )
            assert entered.status is EntryStatus.REFUSED

    async def test_the_time_goes_forward(self, index: SessionIndex) -> None:
        """No two operations have the same time, and a later one has a later time."""
        key = new_key()
        times = [await self._now(index, key) for _ in range(20)]
        times.append((await index.revoke(key, keep=None, memory=HOUR)).result)
        times.append(await self._now(index, key))
        assert times == sorted(set(times))

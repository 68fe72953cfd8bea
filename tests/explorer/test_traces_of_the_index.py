"""The interleavings that broke earlier versions of the index, by their numbers.

Indexes keep one mark here, and `revoke_all` is shown one entry at a time. Trace 41 is in
tests/integration/test_repeated_rotations.py.
"""

from __future__ import annotations

import pytest

from redis_sessions.session.token import SessionToken
from redis_sessions.stores import EntryStatus
from tests.explorer.backends import Backend, MemoryBackend, RedisBackend
from tests.explorer.player import Player
from tests.explorer.rollout import NEW, OLD, touched_below_the_floor
from tests.explorer.scenario import DAY

pytestmark = pytest.mark.anyio


async def test_26_signed_in_after_the_first_step(narrow_backend: RedisBackend) -> None:
    """A step of `revoke_all` meets a session that signed in after its first one: it lives."""
    async with Player(narrow_backend, "A2", "inA@-", "all") as play:
        await play.past(2, "revoke")
        await play.whole(1, 2)
        assert (await play.touch("-")).principal == "A"
        assert play.first is None
        assert play.first_of("9") is None


async def test_27_touch_after_the_first_step(narrow_backend: RedisBackend) -> None:
    """A touch between the first step and the one that would have ended its session: it ends."""
    async with Player(narrow_backend, "A2", "touch@9", "all") as play:
        await play.past(2, "revoke")
        await play.whole(1)
        assert play.first_of("9") is None
        assert play.first is not None  # which no step has come to


@pytest.mark.parametrize("broken_off", [False, True])
async def test_28_two_keep_the_same(narrow_backend: RedisBackend, broken_off: bool) -> None:
    """A session that is named in two crossing `revoke_all(keep=…)` lives."""
    async with Player(narrow_backend, "A2", "keep", "keep", fault="crash") as play:
        await play.past(1, "revoke")
        await play.past(2, "revoke")
        if broken_off:
            await play.do("crash", 1)
        assert (await play.touch()).principal == "A"


async def test_28_two_keep_each_another(narrow_backend: RedisBackend) -> None:
    """`keep` isn't exempt from the `revoke_all` of before, though that was broken off."""
    async with Player(narrow_backend, "A2", "keep", "keep@9", fault="crash") as play:
        await play.past(1, "revoke")
        await play.do("crash", 1)
        await play.past(2, "revoke")
        await play.do("op", 2)
        assert (await play.touch("9")).is_new


async def test_28_entry_of_the_kept_one_lost(narrow_backend: RedisBackend) -> None:
    """A session that was kept lives, though its entry was lost before."""
    async with Player(narrow_backend, "Alost", "keep") as play:
        await play.whole(1)
        assert (await play.touch()).principal == "A"


@pytest.mark.parametrize("kinds", [("out", "out@9"), ("clear", "clear@9"), ("clear", "out@9")])
async def test_29_a_mark_goes_before_its_end(
    narrow_backend: RedisBackend, kinds: tuple[str, str]
) -> None:
    """Two sign-outs have each written once, and one mark is kept: `revoke_all` leaves neither."""
    async with Player(narrow_backend, "A2", *kinds, "all") as play:
        await play.leave(1, 2)
        await play.do("op", 1)
        await play.do("op", 2)
        await play.whole(3)
        assert play.first is None
        assert play.first_of("9") is None


async def test_30_revoke_all_makes_no_marks(narrow_backend: RedisBackend) -> None:
    """`revoke_all` removes entries, and pushes out no mark of others."""
    async with Player(narrow_backend, "A3", "out@8", "all") as play:
        await play.whole(1, 2)
        seats = play.world.seats["A"]
        assert seats.ended == {play.world.firsts["8"].id}
        assert seats.floor == -1
        assert not seats.live


async def test_31_outdated_and_authenticated_meanwhile(narrow_backend: RedisBackend) -> None:
    """A touch found its record older than its entry, and `authenticated()` committed: it lives."""
    async with Player(narrow_backend, "A", "reA", "touch", "reA", fault="failover record") as play:
        await play.leave(1, 2, 3)
        await play.finish(1)
        await play.do("failover record", 0, "s")
        await narrow_backend.advance(20)
        await play.past(3, "touch")
        await narrow_backend.advance(11)
        await play.past(2, "touch")
        await play.past(3, "commit")
        await play.finish(2)
        assert any("OUTDATED" in line for line in play.world.trace)
        await play.finish(3)
        await play.arrive(1)
        await play.arrive(3)
        assert (await play.touch()).principal == "A"


async def test_31_outdated(narrow_backend: RedisBackend) -> None:
    """A record that is older than its entry ends, once no write can be under way."""
    fault = "failover record then 30 s"
    async with Player(narrow_backend, "A", "reA", "touch", fault=fault) as play:
        await play.leave(2)
        await play.finish(1)
        await play.do("failover record", 0, "s")
        assert play.first is not None
        await play.do("30 s")
        await play.finish(2)
        assert play.first is None


async def test_32_authenticated_dies_before_its_commit(narrow_backend: RedisBackend) -> None:
    """The index wasn't told yet, so that the user stays signed in."""
    async with Player(narrow_backend, "A", "reA", "touch", fault="crash then 30 s") as play:
        await play.until(1, "commit")
        await play.do("crash", 1)
        await play.do("30 s")
        await play.whole(2)
        assert (await play.touch()).principal == "A"


async def test_32_authenticated_dies_after_its_commit(narrow_backend: RedisBackend) -> None:
    """The entry is older than the record, which does no harm."""
    async with Player(narrow_backend, "A", "reA", fault="crash then 30 s") as play:
        await play.until(1, "authenticated")
        await play.do("crash", 1)
        await play.do("30 s")
        assert play.first is not None
        assert play.world.seats["A"].live[play.first.token.id] < play.first.auth
        play.world.jars[""] = play.first.token
        assert (await play.touch()).principal == "A"


async def test_33_late_touch(narrow_backend: RedisBackend) -> None:
    """A touch that is late doesn't set its entry's time back."""
    async with Player(narrow_backend, "A", "reA", "touch") as play:
        await play.leave(1, 2)
        await play.finish(1)
        await play.past(2, "touch")
        assert play.first is not None
        assert play.world.seats["A"].live[play.first.token.id] == play.first.auth


@pytest.mark.parametrize("ring", [(NEW, OLD), (OLD, NEW)])
async def test_34_entry_under_the_other_key(
    narrow_backend: RedisBackend, ring: tuple[str, str]
) -> None:
    """During a key roll-out `floor` counts only where no key's index has the entry."""
    assert (await touched_below_the_floor(narrow_backend, ring)).principal == "A"


@pytest.mark.parametrize("by", ["all", "keep@9"])
async def test_35_clock_behind(narrow_backend: RedisBackend, by: str) -> None:
    """After a failover to an index whose clock is behind, `revoke_all` ends all of before."""
    async with Player(narrow_backend, "A2", by, "touch", fault="behind") as play:
        await play.do("behind")
        await play.past(1, "revoke")
        await play.whole(2)
        assert play.first is None


@pytest.mark.parametrize("own", [True, False], ids=["by itself", "by another"])
@pytest.mark.parametrize("which", ["memory", "narrow_backend"])
async def test_signed_in_between_revocations_of_one_millisecond(
    narrow_backend: RedisBackend, memory: MemoryBackend, which: str, own: bool
) -> None:
    """It gets the next whole millisecond, and the second revocation ends it all the same."""
    backend: Backend = memory if which == "memory" else narrow_backend
    store, id = backend.store, SessionToken.generate().id
    first, _ = await store.revoke("a", keep=None, memory=DAY)
    await backend.advance(0 if own else 1 / 4096)
    entered, _ = await store.enter(
        "a", id, age=0, own=first if own else -1, ttl=DAY, descriptor=b""
    )
    assert entered.status is EntryStatus.LIVE
    second, _ = await store.revoke("a", keep=None, memory=DAY)
    assert await store.ask("a", id, authenticated=entered.authenticated) is EntryStatus.ENDED
    assert second - first < 2
    await backend.wipe([], ["a"])


async def test_password_reset_while_the_clock_is_behind(narrow_backend: RedisBackend) -> None:
    """An index whose clock stands still: who reset their password is ended by `revoke_all`."""
    async with Player(narrow_backend, "A", "resetA", "all", fault="behind") as play:
        await play.do("behind")
        await play.whole(1)
        assert (await play.touch()).principal == "A"
        await play.whole(2)
        assert (await play.touch()).is_new

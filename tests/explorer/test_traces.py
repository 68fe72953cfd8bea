"""The interleavings that broke earlier versions of the design, by their numbers."""

from __future__ import annotations

from time import monotonic

import pytest

from redis_sessions import Keyring
from redis_sessions.lifecycle.manager import backend_of
from tests.explorer.actors import Worker
from tests.explorer.audit import Eager
from tests.explorer.backends import RedisBackend
from tests.explorer.player import Player
from tests.explorer.rollout import NEW, OLD, signed_in

pytestmark = pytest.mark.anyio


async def test_01_sign_out_and_in_again(backend: RedisBackend) -> None:
    """Sign out by removing the key; sign in again as the same user: it lives."""
    async with Player(backend, "A", "out", "inA") as play:
        await play.whole(1, 2)
        assert (await play.touch()).principal == "A"


async def test_02_rotation_and_sign_out(backend: RedisBackend) -> None:
    """Both load, the rotation commits, the sign-out conflicts: it holds all the same."""
    async with Player(backend, "A", "rotate", "out") as play:
        await play.leave(1, 2)
        await play.whole(1)
        await play.finish(2)
        assert play.first is None


async def test_03_touch_after_sign_out(backend: RedisBackend) -> None:
    """A touch that asks the index after a sign-out doesn't take what the sign-out left."""
    async with Player(backend, "A", "touch", "out") as play:
        await play.leave(1, 2)
        await play.whole(2)
        await play.finish(1)
        assert play.jar is not None
        assert play.jar.principal is None
        assert play.jar.data == {"x": "A/0"}


async def test_03_touch_amid_sign_out(backend: RedisBackend) -> None:
    """A touch that asks the index after the sign-out's mark doesn't take what that left."""
    async with Player(backend, "A", "touch", "out") as play:
        await play.leave(1, 2)
        await play.past(2, "mark")
        await play.finish(1)
        await play.whole(2)
        assert play.jar is not None
        assert play.jar.data == {"x": "A/0"}


async def test_04_clear_and_sign_in(backend: RedisBackend) -> None:
    """An anonymous session is cleared while it signs in: the signed-in one lives."""
    async with Player(backend, "anon", "clear", "inA") as play:
        await play.leave(1, 2)
        await play.whole(2, 1)
        assert (await play.touch()).principal == "A"


async def test_05_revoke_all_retried(backend: RedisBackend) -> None:
    """`revoke_all` whose reply is lost and which is retried: no record stays open."""
    async with Player(backend, "A", "all", fault="lost") as play:
        await play.until(1, "revoke")
        await play.do("lost", 1)
        await play.finish(1)
        assert play.first is None


async def test_05_revoke_all_amid_clear(backend: RedisBackend) -> None:
    """`revoke_all` while a `clear()` has ended and not yet marked: no record stays open."""
    async with Player(backend, "A", "clear", "all") as play:
        await play.past(1, "end")
        await play.finish(2)
        assert play.first is None


@pytest.mark.parametrize("start", ["none", "anon", "A", "outA"])
async def test_06_password_reset(backend: RedisBackend, start: str) -> None:
    """One request calls `revoke_all(A)`, then signs in as A: it is signed in, nobody else."""
    async with Player(backend, start, "resetA") as play:
        await play.whole(1)
        assert (await play.touch()).principal == "A"
        assert sum(record.principal == "A" for record in play.world.live().values()) == 1


async def test_07_write_after_revocation(backend: RedisBackend) -> None:
    """What a login form stores after a revocation is kept."""
    async with Player(backend, "A", "revoke", "a") as play:
        await play.whole(1, 2)
        assert play.jar is not None
        assert play.jar.data == {"a": "-/2"}


async def test_08_clear_and_clear_and_write(backend: RedisBackend) -> None:
    """The second's new cookie arrives, then the first's answer: it doesn't expire the cookie."""
    async with Player(backend, "A", "clear", "clear+a") as play:
        await play.leave(1, 2)
        await play.whole(2, 1)
        assert play.jar is not None
        assert play.jar.data == {"a": "-/2"}


async def test_09_last_key_removed_and_sign_in(backend: RedisBackend) -> None:
    """The last key of an anonymous session goes while it signs in: its cookie survives."""
    async with Player(backend, "anon", "empty", "inA") as play:
        await play.leave(1, 2)
        await play.whole(2, 1)
        assert (await play.touch()).principal == "A"


async def test_10_lost_tombstone_of_a_busy_session(backend: RedisBackend) -> None:
    """A revoked session whose tombstone is lost, and which stays busy, ends at its touch."""
    specs = ("revoke", "a", "b", "a+due")
    async with Player(backend, "A", *specs, fault="failover record") as play:
        await play.whole(1)
        await play.do("failover record", 0, "s")
        await play.whole(2, 3)
        assert play.world.live()
        await play.whole(4)
        assert play.first is None
        assert play.actor(4).dropped


async def test_11_two_touches_of_a_lost_tombstone(backend: RedisBackend) -> None:
    """The same; two touches at once, one of which conflicts: it ends."""
    specs = ("revoke", "a", "a+due", "touch")
    async with Player(backend, "A", *specs, fault="failover record") as play:
        await play.whole(1)
        await play.do("failover record", 0, "s")
        await play.leave(3, 4)
        await play.whole(2, 3, 4)
        assert play.first is None


async def test_12_keep_without_entry(backend: RedisBackend) -> None:
    """`revoke_all(keep=k)` where k's entry had been lost: k lives."""
    async with Player(backend, "Alost", "keep", "touch") as play:
        await play.whole(1, 2)
        assert play.first is not None
        assert play.first.token.id in play.world.seats["A"].live


@pytest.mark.parametrize("ring", [(NEW, OLD), (OLD, NEW)])
async def test_13_revoked_under_the_old_key(backend: RedisBackend, ring: tuple[str, str]) -> None:
    """A mark under the old key, the tombstone lost, a touch under both keys: it ends."""
    store, clock = backend.store, backend.clock
    old = Worker(store, clock, lambda _: None, keyring=Keyring(OLD))
    _, token = await signed_in(old)
    record = await backend.raw(token.id)
    assert await old.revoke(token.id, principal="A")
    await backend.put(token.id, record)
    both = Eager(store, clock, lambda _: None, keyring=Keyring(*ring))
    session = await both.load(token.value)
    assert session.principal == "A"
    await both.commit(session)
    assert (await both.load(token.value)).is_new
    await backend.wipe([token.id], [key.index("A") for key in backend_of(both).keyring.keys])


@pytest.mark.parametrize("ring", [(NEW, OLD), (OLD, NEW)])
async def test_13_kept_through_a_rollout(backend: RedisBackend, ring: tuple[str, str]) -> None:
    """What is kept survives its touches under either order of the keys."""
    store, clock = backend.store, backend.clock
    _, token = await signed_in(Worker(store, clock, lambda _: None, keyring=Keyring(OLD)))
    both = Eager(store, clock, lambda _: None, keyring=Keyring(*ring))
    assert await both.revoke_all("A", keep=token.id) == 0
    for order in (ring, ring[::-1]):
        other = Eager(store, clock, lambda _: None, keyring=Keyring(*order))
        session = await other.load(token.value)
        assert session.principal == "A"
        await other.commit(session)
    assert not (await both.load(token.value)).is_new
    await backend.wipe([token.id], [key.index("A") for key in backend_of(both).keyring.keys])


@pytest.mark.parametrize("other", ["rotate", "clear", "out"])
async def test_14_authenticated_on_what_is_gone(backend: RedisBackend, other: str) -> None:
    """`authenticated()` on a session that was rotated or ended is a sign-in."""
    async with Player(backend, "A", other, "reA") as play:
        await play.leave(1, 2)
        await play.whole(1, 2)
        assert play.actor(2).code == 200
        assert (await play.touch()).principal == "A"


async def test_15_rotation_retried(backend: RedisBackend) -> None:
    """A rotation whose reply is lost recognises its own write."""
    async with Player(backend, "A", "rotate", fault="lost") as play:
        await play.until(1, "commit")
        await play.do("lost", 1)
        await play.whole(1)
        assert not play.actor(1).dropped
        assert (await play.touch()).principal == "A"


@pytest.mark.parametrize(("start", "by"), [("anon", "inA"), ("A", "out"), ("anon", "rotate")])
async def test_16_late_anonymous_write(backend: RedisBackend, start: str, by: str) -> None:
    """With the token of before a sign-in, sign-out or rotation it sends no cookie."""
    async with Player(backend, start, "a", by) as play:
        await play.do("leave", 1)
        await play.whole(2, 1)
        assert play.actor(1).cookie is None
        assert play.actor(1).dropped


async def test_17_data_left_by_another(backend: RedisBackend) -> None:
    """Signed out from A with A's data left; B signs in, and sees none of it."""
    async with Player(backend, "outA", "inB") as play:
        await play.whole(1)
        session = await play.touch()
        assert dict(session) == {"user_id": "B"}


async def test_18_sign_in_and_revoke_all(backend: RedisBackend) -> None:
    """Entered before `revoke_all`, committed after: not usable once both are answered."""
    async with Player(backend, "none", "inA", "all") as play:
        await play.until(1, "commit")
        await play.whole(2, 1)
        assert not play.world.live()


@pytest.mark.parametrize("start", ["none", "anon"])
@pytest.mark.parametrize("last", [1, 2])
async def test_19_double_click(backend: RedisBackend, start: str, last: int) -> None:
    """Two sign-ins of one user at once: signed in, whichever answer arrives last."""
    async with Player(backend, start, "inA", "inA") as play:
        await play.leave(1, 2)
        await play.finish(1)
        await play.finish(2)
        await play.arrive(3 - last)
        await play.arrive(last)
        assert (await play.touch()).principal == "A"


async def test_20_cart_and_sign_in(backend: RedisBackend) -> None:
    """A change that was answered while the session signed in is in the signed-in one."""
    async with Player(backend, "anon", "a", "inA") as play:
        await play.leave(1, 2)
        await play.past(2, "commit")
        await play.whole(1, 2)
        assert play.jar is not None
        assert play.jar.data == {"x": "-/0", "a": "-/1"}


@pytest.mark.parametrize("kind", ["clear", "clear+a"])
async def test_21_clear_retried(backend: RedisBackend, kind: str) -> None:
    """It doesn't take its own tombstone for another's; what was written after it is kept."""
    async with Player(backend, "A", kind, fault="lost") as play:
        await play.until(1, "end")
        await play.do("lost", 1)
        await play.whole(1)
        if kind == "clear":
            assert play.actor(1).cookie == "expire"
        else:
            assert play.jar is not None
            assert play.jar.data == {"a": "-/1"}


async def test_21_clear_and_clear_retried(backend: RedisBackend) -> None:
    """Two `clear()`, one reply lost: no cookie expired by the one that didn't end it."""
    async with Player(backend, "A", "clear", "clear", fault="lost") as play:
        await play.leave(1, 2)
        await play.whole(1)
        await play.until(2, "end")
        await play.do("lost", 2)
        await play.finish(2)
        assert play.actor(2).cookie is None


async def test_22_late_change_sign_out_and_revocation(backend: RedisBackend) -> None:
    """The revocation's tombstone doesn't hide the sign-out's: no cookie for a late change."""
    async with Player(backend, "A", "a+due", "out", "revoke") as play:
        await play.do("leave", 1)
        await play.whole(2, 3, 1)
        assert play.actor(1).cookie is None
        assert play.jar is not None


@pytest.mark.parametrize("held", ["touch", "commit"])
async def test_23_authenticated_revoke_all_and_touch(backend: RedisBackend, held: str) -> None:
    """The entry lost before: the revoked session ends, an answered sign-in does not."""
    async with Player(backend, "Alost", "reA", "all", "touch") as play:
        await play.leave(1, 3)
        await play.until(1, held)
        await play.whole(2, 1, 3)
        assert play.first is None
        if play.actor(1).code == 200:
            assert (await play.touch()).principal == "A"


async def test_24_password_reset_while_signed_in(backend: RedisBackend) -> None:
    """`revoke_all` ends one's own session, the same principal is set: signed in, a new id."""
    async with Player(backend, "A", "resetA") as play:
        await play.whole(1)
        session = await play.touch()
        assert session.principal == "A"
        assert play.first is None


async def test_25_commit_after_the_deadline(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entered, `revoke_all` answered, 30 seconds later the commit: refused by the deadline."""
    async with Player(backend, "none", "inA", "all") as play:
        await play.until(1, "enter")
        actor = play.actor(1)
        call = actor.pending.pop()
        entered = await call.send()  # its reply takes half a minute
        await play.finish(2)
        later = "redis_sessions.lifecycle.writer.monotonic"
        monkeypatch.setattr(later, lambda: monotonic() + 31)
        call.answer.set_result(entered)
        await actor.settled()
        assert actor.code == 503
        assert not actor.pending
        assert not play.world.live()
        monkeypatch.undo()

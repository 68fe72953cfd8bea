"""Two requests that cross: what of each is stored, and whose cookie goes out."""

from __future__ import annotations

import pytest

from redis_sessions import Answer, Commit, Session, SessionConflictError, Written
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Outcome
from tests.support.stores import UnreliableStore
from tests.unit.setting import Setting, token_of


async def test_different_keys_merge(at: Setting) -> None:
    """Two requests that change different keys are both stored."""
    token = await at.begin({"x": 0})
    one, two = await at.load(token), await at.load(token)
    one["a"] = 1
    two["b"] = 2
    del two["x"]
    assert (await at.commit(one)).outcome is Outcome.CHANGE
    assert (await at.commit(two)).outcome is Outcome.CHANGE
    assert await at.data(token) == {"a": 1, "b": 2}
    assert dict(two) == {"a": 1, "b": 2}
    assert at.reported("merged") == [None]


async def test_same_key_the_later_wins(at: Setting) -> None:
    """Of two requests that change one key the later commit wins."""
    token = await at.begin({"x": 0})
    one, two = await at.load(token), await at.load(token)
    one["x"], two["x"] = 1, 2
    await at.commit(one)
    await at.commit(two)
    assert await at.data(token) == {"x": 2}


@pytest.mark.standard(13, "ASVS 7.4.1", "ASVS 15.4.2")
async def test_no_resurrection(at: Setting) -> None:
    """A slow request doesn't bring back a session that was ended meanwhile."""
    token = await at.begin({"user_id": "A"})
    slow, fast = await at.load(token), await at.load(token)
    fast.clear()
    await at.commit(fast)
    slow["x"] = 1
    assert await at.commit(slow) == Answer(Outcome.DROP)
    assert await at.data(token) == {}
    assert at.reported("dropped") == ["ended elsewhere"]
    # ... nor does it report the same change again when the application returns
    assert await at.commit(slow) == Answer(Outcome.NOTHING)


async def test_late_token_replaces_no_cookie(at: Setting) -> None:
    """A request with the token of before a sign-in, a sign-out or a rotation sends no cookie."""
    old = await at.begin({"x": 1})
    session = await at.load(old)
    session["user_id"] = "A"
    await at.commit(session)
    late = await at.load(old)
    late["y"] = 1
    assert await at.commit(late) == Answer(Outcome.DROP)
    at.clock.advance(31)
    later = await at.load(old)
    later["y"] = 1
    assert (await at.commit(later)).outcome is Outcome.CREATE


async def test_rotation_crossing_a_change(at: Setting) -> None:
    """A change that meets a rotation is dropped; the rotated session lives."""
    token = await at.begin({"x": 1})
    rotating, changing = await at.load(token), await at.load(token)
    rotating.rotate()
    new = token_of(await at.commit(rotating))
    changing["x"] = 2
    assert (await at.commit(changing)).outcome is Outcome.DROP
    assert await at.data(new) == {"x": 1}


async def test_change_crossing_a_rotation(at: Setting) -> None:
    """A rotation that meets a change takes it along."""
    token = await at.begin({"x": 1})
    rotating, changing = await at.load(token), await at.load(token)
    changing["x"] = 2
    await at.commit(changing)
    rotating.rotate()
    assert await at.data(token_of(await at.commit(rotating))) == {"x": 2}


async def test_sign_out_crossing_a_rotation(at: Setting) -> None:
    """A sign-out holds though the session was rotated under it."""
    token = await at.begin({"user_id": "A"})
    rotating, leaving = await at.load(token), await at.load(token)
    rotating.rotate()
    new = token_of(await at.commit(rotating))
    del leaving["user_id"]
    assert await at.commit(leaving) == Answer(Outcome.LOSE, expire=True)
    assert await at.data(new) == {}


async def test_sign_out_crossing_a_change(at: Setting) -> None:
    """A sign-out takes along what another request changed."""
    token = await at.begin({"user_id": "A", "x": 1})
    changing, leaving = await at.load(token), await at.load(token)
    changing["y"] = 2
    await at.commit(changing)
    del leaving["user_id"]
    assert await at.data(token_of(await at.commit(leaving))) == {"x": 1, "y": 2}


async def test_second_sign_out_keeps_quiet(at: Setting) -> None:
    """Who finds the session ended by another request expires no cookie, and keeps nothing."""
    token = await at.begin({"user_id": "A", "x": 1})
    one, two, three = await at.load(token), await at.load(token), await at.load(token)
    one.clear()
    two.clear()
    two["y"] = 1
    del three["user_id"]
    assert (await at.commit(one)).expire
    assert await at.commit(two) == Answer(Outcome.DROP)
    assert await at.commit(three) == Answer(Outcome.DROP)


async def test_sign_in_crossing_a_change(at: Setting) -> None:
    """What changes in the anonymous session during a sign-in is in the signed-in one."""

    class Late(UnreliableStore):
        """Lets a change in between the sign-in's two commits."""

        async def commit(
            self, id: str, expected: bytes | None, value: bytes, ttl: int
        ) -> Written[Commit]:
            if expected is not None and len(value) == 33 and changing:
                await at.commit(changing.pop())
            return await super().commit(id, expected, value, ttl)

    at = Setting()
    backend = backend_of(at.manager)
    at.store = backend.store = backend.records = Late(clock=at.clock)
    changing: list[Session] = []
    token = await at.begin({"cart": [1], "x": 1})
    signing, other = await at.load(token), await at.load(token)
    other["cart"].append(2)
    changing.append(other)
    signing["user_id"] = "A"
    answer = await at.commit(signing)
    assert answer.outcome is Outcome.GAIN
    assert await at.data(token_of(answer)) == {"cart": [1, 2], "x": 1, "user_id": "A"}
    assert dict(signing) == {"cart": [1, 2], "x": 1, "user_id": "A"}


async def test_clear_crossing_a_sign_in(at: Setting) -> None:
    """A clear() of the anonymous session doesn't end the signed-in one."""
    token = await at.begin({"x": 1})
    signing, clearing = await at.load(token), await at.load(token)
    signing["user_id"] = "A"
    new = token_of(await at.commit(signing))
    clearing.clear()
    assert not (await at.commit(clearing)).expire
    assert await at.data(new) == {"x": 1, "user_id": "A"}


async def test_clear_with_a_rotated_token(at: Setting) -> None:
    """clear() with a token that was just rotated expires the cookie, and ends nobody's session."""
    token = await at.begin({"user_id": "A"})
    session = await at.load(token)
    session.rotate()
    new = token_of(await at.commit(session))
    late = await at.load(token)
    late.clear()
    assert await at.commit(late) == Answer(Outcome.CLEAR, expire=True)
    assert await at.data(new) == {"user_id": "A"}


async def test_authenticated_of_an_ended_session(at: Setting) -> None:
    """Who proves who they are in a session that has just ended gets a new one."""
    token = await at.begin({"user_id": "A", "x": 1})
    proving, ending = await at.load(token), await at.load(token)
    ending.clear()
    await at.commit(ending)
    proving.authenticated()
    answer = await at.commit(proving)
    assert answer.outcome is Outcome.GAIN
    assert await at.data(token_of(answer)) == {"user_id": "A"}


async def test_endless_conflict() -> None:
    """Conflicts are resolved until the deadline, and then told."""

    class Contended(UnreliableStore):
        """Somebody else is always faster."""

        async def commit(
            self, id: str, expected: bytes | None, value: bytes, ttl: int
        ) -> Written[Commit]:
            return (
                Written(Commit.CONFLICT) if busy else await super().commit(id, expected, value, ttl)
            )

    at = Setting(deadline=0.02)
    backend = backend_of(at.manager)
    at.store = backend.store = backend.records = Contended(clock=at.clock)
    busy = False
    session = await at.load(await at.begin({"x": 1}))
    busy = True
    session["x"] = 2
    with pytest.raises(SessionConflictError):
        await at.commit(session)

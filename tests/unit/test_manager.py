"""The manager over a store in memory: what a request leaves behind, alone and crossing another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from redis_sessions import (
    Answer,
    Commit,
    Event,
    Keyring,
    MemoryStore,
    Session,
    SessionConflictError,
    SessionEncodeError,
    SessionError,
    SessionGoneError,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.outcome import Outcome
from redis_sessions.record import rotated_at
from redis_sessions.session import state_of
from redis_sessions.testing import Clock, read_session, store_session

KEY: Final = generate_key()
DAY: Final = 24 * 3600


class Setting:
    """A manager, its store, its clock and what it reported."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.store = MemoryStore(clock=self.clock)
        self.manager = SessionManager(
            self.store,
            Keyring(KEY),
            clock=self.clock,
            on_event=self.events.append,
            **options,
        )

    async def begin(self, data: Mapping[str, Any]) -> str:
        """The token of a stored session."""
        return await store_session(self.manager, data)

    async def load(self, token: str | None) -> Session:
        return await self.manager.load(token)

    async def data(self, token: str | None) -> dict[str, Any]:
        return await read_session(self.manager, token)

    async def commit(self, session: Session, status: int = 200) -> Answer:
        return await self.manager.commit(session, status=status)

    def reported(self, name: str) -> list[str | None]:
        return [event.reason for event in self.events if event.name == name]


@pytest.fixture
def at() -> Setting:
    return Setting()


def token_of(answer: Answer) -> str:
    assert answer.token is not None
    return answer.token.value


# -- one request


async def test_empty_visitor_stores_nothing(at: Setting) -> None:
    """A visitor who leaves nothing in the session costs nothing."""
    answer = await at.commit(await at.load(None))
    assert answer == Answer(Outcome.NOTHING)
    assert len(at.store) == 0


async def test_first_change_creates(at: Setting) -> None:
    """What a new visitor stores comes with a token, and is there at the next request."""
    session = await at.load(None)
    assert (session.is_new, session.id, session.created_at) == (True, None, None)
    session["cart"] = ["book"]
    answer = await at.commit(session)
    assert (answer.outcome, answer.max_age) == (Outcome.CREATE, 14 * DAY)
    again = await at.load(token_of(answer))
    assert dict(again) == {"cart": ["book"]}
    assert again.id == token_of(answer)[:20]
    assert not again.is_new
    assert again.created_at is not None
    assert again.created_at.timestamp() == at.clock.now


@pytest.mark.standard(4)
async def test_unknown_token_is_never_adopted(at: Setting) -> None:
    """The id that a client made up doesn't become a session's."""
    made_up = "A" * 64
    session = await at.load(made_up)
    session["x"] = 1
    answer = await at.commit(session)
    assert answer.outcome is Outcome.CREATE
    assert token_of(answer)[:20] != made_up[:20]
    assert at.reported("rejected") == ["unknown id"]


async def test_nested_change(at: Setting) -> None:
    """A change deep inside is stored, without a cookie; an assignment of the same isn't one."""
    token = await at.begin({"a": {"b": [1]}})
    session = await at.load(token)
    session["a"]["b"].append(2)
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    session = await at.load(token)
    session["a"] = {"b": [1, 2]}
    assert await at.commit(session) == Answer(Outcome.NOTHING)


async def test_emptied_session_stays(at: Setting) -> None:
    """An anonymous session whose last key goes is empty, and still a session."""
    token = await at.begin({"a": 1})
    session = await at.load(token)
    del session["a"]
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    again = await at.load(token)
    assert not again.is_new
    assert dict(again) == {}


async def test_mark_modified(at: Setting) -> None:
    """mark_modified() has equal data written."""
    token = await at.begin({"a": 1})
    session = await at.load(token)
    session.mark_modified()
    assert await at.commit(session) == Answer(Outcome.CHANGE)


@pytest.mark.standard(8, "ASVS 7.2.4")
@pytest.mark.parametrize("user", [7, "ada", 0])
async def test_sign_in(at: Setting, user: object) -> None:
    """Signing in keeps the cart, under a new id; the old token opens nothing any more."""
    old = await at.begin({"cart": [1]})
    session = await at.load(old)
    session["user_id"] = user
    new = token_of(await at.commit(session))
    assert new[:20] != old[:20]
    signed_in = await at.load(new)
    assert dict(signed_in) == {"cart": [1], "user_id": user}
    assert signed_in.principal == str(user)
    assert signed_in.authenticated_at is not None
    assert await at.data(old) == {}


async def test_switch(at: Setting) -> None:
    """Nothing of A's shows in a session of B's but what this request wrote."""
    old = await at.begin({"user_id": "A", "secret": 1, "n": 1})
    session = await at.load(old)
    session["user_id"] = "B"
    session["n"] = 2
    answer = await at.commit(session)
    assert answer.outcome is Outcome.SWITCH
    assert await at.data(token_of(answer)) == {"user_id": "B", "n": 2}
    assert dict(session) == {"user_id": "B", "n": 2}
    assert await at.data(old) == {}


async def test_sign_out_that_leaves_data(at: Setting) -> None:
    """Removing the principal ends the id; what is left goes on under another."""
    old = await at.begin({"user_id": "A", "theme": "dark"})
    session = await at.load(old)
    del session["user_id"]
    answer = await at.commit(session)
    assert answer.outcome is Outcome.LOSE
    left = await at.load(token_of(answer))
    assert dict(left) == {"theme": "dark"}
    assert left.principal is None
    assert left.authenticated_at is None
    assert await at.data(old) == {}


async def test_sign_out_that_leaves_nothing(at: Setting) -> None:
    """Removing the principal and all else expires the cookie."""
    session = await at.load(await at.begin({"user_id": "A"}))
    session.pop("user_id")
    assert await at.commit(session) == Answer(Outcome.LOSE, expire=True)


@pytest.mark.parametrize(("user", "outcome"), [("A", Outcome.GAIN), ("B", Outcome.SWITCH)])
async def test_owner_outlives_the_sign_out(at: Setting, user: str, outcome: Outcome) -> None:
    """What A left behind goes on with A, and not with B."""
    session = await at.load(await at.begin({"user_id": "A", "address": "A's"}))
    del session["user_id"]
    session = await at.load(token_of(await at.commit(session)))
    session["user_id"] = user
    answer = await at.commit(session)
    assert answer.outcome is outcome
    left = {"address": "A's"} if user == "A" else {}
    assert await at.data(token_of(answer)) == {"user_id": user, **left}


async def test_clear(at: Setting) -> None:
    """clear() ends the session and expires the cookie."""
    token = await at.begin({"user_id": "A"})
    session = await at.load(token)
    session.clear()
    assert (session.is_new, session.id) == (True, None)
    assert await at.commit(session) == Answer(Outcome.CLEAR, expire=True)
    assert await at.data(token) == {}


async def test_clear_and_write(at: Setting) -> None:
    """What is written after clear() is another session."""
    token = await at.begin({"user_id": "A", "x": 1})
    session = await at.load(token)
    session.clear()
    session["flash"] = "bye"
    answer = await at.commit(session)
    assert answer.outcome is Outcome.CREATE
    assert token_of(answer)[:20] != token[:20]
    assert await at.data(token_of(answer)) == {"flash": "bye"}
    assert await at.data(token) == {}


async def test_clear_and_sign_in(at: Setting) -> None:
    """clear() before a sign-in, as many applications have it, signs in."""
    session = await at.load(await at.begin({"x": 1}))
    session.clear()
    session["user_id"] = 1
    assert await at.data(token_of(await at.commit(session))) == {"user_id": 1}


@pytest.mark.standard(9)
async def test_rotate(at: Setting) -> None:
    """rotate() gives the same session another secret; the old token is dead."""
    old = await at.begin({"user_id": "A", "x": 1})
    session = await at.load(old)
    session.rotate()
    answer = await at.commit(session)
    new = token_of(answer)
    assert answer.outcome is Outcome.ROTATE
    assert (new[:20], new == old) == (old[:20], False)
    assert await at.data(new) == {"user_id": "A", "x": 1}
    assert await at.data(old) == {}


@pytest.mark.standard(8, "ASVS 7.2.4")
async def test_authenticated(at: Setting) -> None:
    """authenticated() rotates and restarts the lifetime."""
    session = await at.load(await at.begin({"user_id": "A"}))
    at.clock.advance(5 * DAY)
    session = await at.load(None) if session.is_new else session
    session.authenticated()
    answer = await at.commit(session)
    assert (answer.outcome, answer.max_age) == (Outcome.REAUTHENTICATE, 14 * DAY)


@pytest.mark.parametrize("status", [400, 500])
async def test_errors_sign_nobody_in(at: Setting, status: int) -> None:
    """A response of 400 or more leaves the session as it was."""
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["user_id"] = "A"
    assert await at.commit(session, status) == Answer(Outcome.NOTHING)
    assert await at.data(token) == {"x": 1}


async def test_sign_out_holds_at_500(at: Setting) -> None:
    """From 500 on only the principal's removal counts, and even what can't be encoded."""
    session = await at.load(await at.begin({"user_id": "A", "x": 1}))
    del session["user_id"]
    session["x"] = object()
    answer = await at.commit(session, 500)
    assert answer.outcome is Outcome.LOSE
    assert await at.data(token_of(answer)) == {"x": 1} or answer.expire


async def test_change_at_500_is_not_stored(at: Setting) -> None:
    """A failed request changes nothing."""
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["x"] = 2
    assert await at.commit(session, 500) == Answer(Outcome.NOTHING)
    assert await at.data(token) == {"x": 1}


async def test_encode_error_stores_nothing(at: Setting) -> None:
    """A value that can't be stored is refused before anything is sent."""
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["x"] = {"y": [1, object()]}
    with pytest.raises(SessionEncodeError, match=r"session\['x'\]\['y'\]\[1\].*object"):
        await at.commit(session)
    assert await at.data(token) == {"x": 1}


# -- lifetimes


@pytest.mark.standard(10, "ASVS 7.3.1")
async def test_idle_timeout(at: Setting) -> None:
    """A session that isn't used ends; each use, once in a while, renews it."""
    token = await at.begin({"x": 1})
    for _ in range(3):
        at.clock.advance(6 * DAY if _ == 0 else DAY)
        assert (await at.commit(await at.load(token))).outcome is Outcome.TOUCH
    at.clock.advance(7 * DAY)
    assert await at.data(token) == {}


async def test_touch_is_rare(at: Setting) -> None:
    """Reads within five minutes of the last touch write nothing."""
    token = await at.begin({"x": 1})
    at.clock.advance(300)
    assert await at.commit(await at.load(token)) == Answer(Outcome.NOTHING)
    at.clock.advance(1)
    assert await at.commit(await at.load(token)) == Answer(Outcome.TOUCH)
    assert await at.commit(await at.load(token)) == Answer(Outcome.NOTHING)


@pytest.mark.standard(11, "ASVS 7.3.2")
async def test_absolute_lifetime() -> None:
    """However much it is used, a session ends at max_age."""
    at = Setting(max_age=1000, idle_timeout=600)
    token = await at.begin({"x": 1})
    for _ in range(9):
        at.clock.advance(100)
        assert await at.data(token) == {"x": 1}
        await at.commit(await at.load(token))
    at.clock.advance(100)
    assert await at.data(token) == {}


async def test_max_age_none() -> None:
    """max_age=None: the cookie ends with the browser, the session after 14 days."""
    at = Setting(max_age=None)
    session = await at.load(None)
    session["x"] = 1
    answer = await at.commit(session)
    assert answer.max_age is None
    stored = await at.load(token_of(answer))
    assert stored.expires_at is not None
    assert stored.expires_at.timestamp() == at.clock.now + 14 * DAY


async def test_remember_me(at: Setting) -> None:
    """A longer expire_in() sends the cookie again, and holds unused."""
    old = await at.begin({"user_id": 1})
    session = await at.load(old)
    session.expire_in(30 * DAY)
    answer = await at.commit(session)
    assert (answer.outcome, answer.max_age) == (Outcome.ROTATE, 30 * DAY)
    at.clock.advance(29 * DAY)
    assert await at.data(token_of(answer)) == {"user_id": 1}


async def test_shorter_lifetime(at: Setting) -> None:
    """A shorter expire_in() needs no cookie."""
    token = await at.begin({"user_id": 1})
    session = await at.load(token)
    session.expire_in(60)
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    at.clock.advance(60)
    assert await at.data(token) == {}


async def test_persistence_changes(at: Setting) -> None:
    """A cookie that is to end with the browser has to go out, and so rotates."""
    session = await at.load(await at.begin({"user_id": 1}))
    session.expire_in(60, persistent=False)
    answer = await at.commit(session)
    assert (answer.outcome, answer.max_age) == (Outcome.ROTATE, None)


async def test_clocks_that_differ(at: Setting) -> None:
    """A record of a server whose clock is ahead opens."""
    token = await at.begin({"x": 1})
    at.clock.advance(-100)
    assert await at.data(token) == {"x": 1}


# -- requests that cross


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

    class Late(MemoryStore):
        """Lets a change in between the sign-in's two commits."""

        async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
            if expected is not None and len(value) == 33 and changing:
                await at.commit(changing.pop())
            return await super().commit(id, expected, value, ttl)

    at = Setting()
    at.store = at.manager.store = Late(clock=at.clock)
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

    class Contended(MemoryStore):
        """Somebody else is always faster."""

        async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
            return Commit.CONFLICT if busy else await super().commit(id, expected, value, ttl)

    at = Setting(deadline=0.02)
    at.store = at.manager.store = Contended(clock=at.clock)
    busy = False
    session = await at.load(await at.begin({"x": 1}))
    busy = True
    session["x"] = 2
    with pytest.raises(SessionConflictError):
        await at.commit(session)


# -- several commits in one request


async def test_late_change(at: Setting) -> None:
    """What changes after the response has started is stored on top of what was."""
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["x"] = 2
    await at.commit(session)
    state_of(session).late = True
    other = await at.load(token)
    other["y"] = 1
    await at.commit(other)
    session["z"] = 3
    assert (await at.commit(session)).outcome is Outcome.CHANGE
    assert await at.data(token) == {"x": 2, "y": 1, "z": 3}


@pytest.mark.parametrize("what", ["sign in", "rotate", "create"])
async def test_late_token(at: Setting, what: str) -> None:
    """A token that the browser could never learn is an error that says so."""
    session = await at.load(None if what == "create" else await at.begin({"x": 1}))
    state_of(session).late = True
    if what == "rotate":
        session.rotate()
    else:
        session["user_id" if what == "sign in" else "x"] = "A"
    with pytest.raises(SessionError, match="has started"):
        await at.commit(session)


async def test_late_end(at: Setting) -> None:
    """Ending works late, too; nothing is left behind."""
    token = await at.begin({"user_id": "A", "x": 1})
    session = await at.load(token)
    state_of(session).late = True
    del session["user_id"]
    assert (await at.commit(session)).token is None
    assert await at.data(token) == {}
    assert at.reported("dropped") == ["signed out late"]


async def test_save(at: Setting) -> None:
    """save() stores at once; what needs a token waits for the response."""
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["x"] = 2
    await session.save()
    assert await at.data(token) == {"x": 2}
    session["user_id"] = "A"
    await session.save()
    assert await at.data(token) == {"x": 2}
    answer = await at.commit(session)
    assert await at.data(token_of(answer)) == {"x": 2, "user_id": "A"}


async def test_save_gone(at: Setting) -> None:
    """save() of a session that ended elsewhere is an error."""
    token = await at.begin({"x": 1})
    session, other = await at.load(token), await at.load(token)
    other.clear()
    await at.commit(other)
    session["x"] = 2
    with pytest.raises(SessionGoneError):
        await session.save()


async def test_refresh(at: Setting) -> None:
    """refresh() brings what others stored, and keeps what was changed here."""
    token = await at.begin({"x": 1, "y": 1})
    session, other = await at.load(token), await at.load(token)
    other["x"], other["z"] = 2, 3
    await at.commit(other)
    session["y"] = 5
    await session.refresh()
    assert dict(session) == {"x": 2, "y": 5, "z": 3}
    await at.commit(session)
    assert await at.data(token) == {"x": 2, "y": 5, "z": 3}


async def test_refresh_gone(at: Setting) -> None:
    """refresh() of a session that ended elsewhere is an error."""
    token = await at.begin({"x": 1})
    session, other = await at.load(token), await at.load(token)
    other.clear()
    await at.commit(other)
    with pytest.raises(SessionGoneError):
        await session.refresh()


# -- the store's failures


class Away(MemoryStore):
    """A store that can go away."""

    away = False

    async def load(self, id: str) -> bytes | None:
        self._check()
        return await super().load(id)

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        self._check()
        return await super().commit(id, expected, value, ttl)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailableError("away")


async def test_touch_that_fails(at: Setting) -> None:
    """A read doesn't fail because its time can't be renewed."""
    store = Away(clock=at.clock)
    at.manager.store = store
    token = await at.begin({"x": 1})
    at.clock.advance(DAY)
    session = await at.load(token)
    store.away = True
    assert await at.commit(session) == Answer(Outcome.NOTHING)


async def test_change_that_fails(at: Setting) -> None:
    """A change that can't be stored is an error, and may be tried again."""
    store = Away(clock=at.clock)
    at.manager.store = store
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["x"] = 2
    store.away = True
    with pytest.raises(StoreUnavailableError):
        await at.commit(session)
    store.away = False
    assert (await at.commit(session)).outcome is Outcome.CHANGE
    assert await at.data(token) == {"x": 2}


async def test_anonymous_while_away(at: Setting) -> None:
    """The empty session of an absent store is read, and not written."""
    session = at.manager.anonymous(StoreUnavailableError("away"))
    assert await at.commit(session) == Answer(Outcome.NOTHING)
    session["x"] = 1
    with pytest.raises(StoreUnavailableError):
        await at.commit(session)


# -- keys


@pytest.mark.standard(29, "ASVS 11.2.2", "ASVS 13.3.4")
async def test_key_roll_out(at: Setting) -> None:
    """A record under a retired key opens, and is sealed again at its next touch."""
    token = await at.begin({"user_id": "A", "x": 1})
    new = generate_key()
    rolled = SessionManager(at.store, Keyring(new, KEY), clock=at.clock)
    only_new = SessionManager(at.store, Keyring(new), clock=at.clock)
    assert await read_session(only_new, token) == {}
    at.clock.advance(301)
    assert (await rolled.commit(await rolled.load(token))).outcome is Outcome.TOUCH
    assert await read_session(only_new, token) == {"user_id": "A", "x": 1}


async def test_unknown_key_is_not_ours_to_replace() -> None:
    """The session of another deployment is left alone, and its cookie too."""
    at = Setting()
    token = await at.begin({"x": 1})
    other = SessionManager(at.store, Keyring(generate_key()), clock=at.clock)
    session = await other.load(token)
    session["y"] = 1
    assert await other.commit(session) == Answer(Outcome.DROP)
    assert await at.data(token) == {"x": 1}


# -- several tokens


async def test_one_of_several_opens(at: Setting) -> None:
    """Of several cookies the one that opens is taken."""
    token = await at.begin({"x": 1})
    assert dict(await at.manager.load(["short", "A" * 64, token])) == {"x": 1}


async def test_two_that_open(at: Setting) -> None:
    """If two open, neither is taken: somebody planted one."""
    tokens = [await at.begin({"x": n}) for n in range(2)]
    assert dict(await at.manager.load(tokens)) == {}
    assert dict(await at.manager.load([tokens[0], tokens[0]])) == {"x": 0}
    assert at.reported("rejected") == ["several tokens open a session"]


async def test_on_event_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An event handler that raises fails no request."""

    def broken(event: Event) -> None:
        raise RuntimeError("broken handler")

    manager = SessionManager(MemoryStore(), Keyring(KEY), on_event=broken)
    await manager.load("malformed")
    assert "on_event failed" in caplog.text
    assert manager.counts["rejected: malformed token"] == 1


async def test_each_rotation_tells_from_the_last(at: Setting) -> None:
    """Within one second, too: by their headers a store knows which writes have to be safe."""
    session = await at.load(await at.begin({"x": 1}))
    seen = set[int]()
    for _ in range(3):
        session.rotate()
        answer = await at.commit(session)
        assert answer.token is not None
        stored = await at.store.load(answer.token.id)
        assert stored is not None
        seen.add(rotated_at(stored))
    assert len(seen) == 3
    assert 0 not in seen

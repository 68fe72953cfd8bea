"""The manager over a store in memory: what a request leaves behind, and which tokens open."""

from __future__ import annotations

from typing import Any

import pytest

from redis_sessions import (
    Answer,
    Keyring,
    Session,
    SessionEncodeError,
    SessionManager,
    generate_key,
)
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.record import rotated_at
from redis_sessions.testing import read_session
from tests.unit.setting import DAY, KEY, Setting, token_of

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


# -- tokens and keys


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


async def test_a_leaked_key_that_is_dropped(at: Setting) -> None:
    """What it sealed reads as none and is nobody's: the browser may begin a new session at once."""
    anonymous, signed_in = await at.begin({"x": 1}), await at.begin({"user_id": "A"})
    dropped = Keyring(generate_key(), dropped=[KEY])
    after = SessionManager(at.store, dropped, clock=at.clock)
    for token in (anonymous, signed_in):
        session = await after.load(token)
        assert dict(session) == {}
        session["csrf"] = "x"
        answer = await after.commit(session)
        assert answer.outcome is Outcome.CREATE
        assert answer.token is not None
        assert answer.token.id != token[:20]
        assert await read_session(after, answer.token.value) == {"csrf": "x"}
    assert await after.sessions_of("A") == []


async def test_unknown_key_is_not_ours_to_replace() -> None:
    """The session of another deployment is left alone, and its cookie too."""
    at = Setting()
    token = await at.begin({"x": 1})
    other = SessionManager(at.store, Keyring(generate_key()), clock=at.clock)
    session = await other.load(token)
    session["y"] = 1
    assert await other.commit(session) == Answer(Outcome.DROP)
    assert await at.data(token) == {"x": 1}


async def test_a_commit_of_its_own(at: Setting) -> None:
    """A manager that has one is asked for each response that stores something."""
    statuses = list[int]()

    class Own(SessionManager):
        def commit(self, session: Session, *, status: int = 200, may_create: bool = True) -> Any:
            statuses.append(status)
            return super().commit(session, status=status, may_create=may_create)

    at.manager = Own(at.store, Keyring(KEY), clock=at.clock)
    reply = await at.request(lambda session: session.update(a=1))
    assert await at.data(reply.token.value) == {"a": 1}
    assert statuses == [200]

"""`session.sign_in()` and `sign_out()`: the documented way in and out."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import pytest

from redis_sessions import ConfigurationError, SessionError, StoreUnavailableError
from redis_sessions.lifecycle.loading import unloaded
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.session import Session
from tests.unit.setting import ALICE, DAY, WHY, Setting, token_of
from tests.unit.visits import ids

ID: Final = UUID("12345678-1234-5678-1234-567812345678")


class Name(enum.StrEnum):
    ANN = "ann"


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("user", "stored"),
    [("ann", "ann"), (1, 1), (0, 0), (ID, str(ID)), (Name.ANN, "ann"), (Number.ONE, 1)],
    ids=repr,
)
async def test_it_signs_in(at: Setting, user: Any, stored: object) -> None:
    """A str, an int or a UUID; the visitor's data go along to a new id."""
    token = await at.begin({"cart": 1})
    session = await at.load(token)
    session.sign_in(user)
    assert (session.principal, session["user_id"]) == (str(stored), stored)
    assert type(session["user_id"]) is type(stored)

    answer = await at.commit(session)

    assert answer.outcome is Outcome.GAIN
    assert token_of(answer)[:20] != token[:20]
    assert await at.data(token_of(answer)) == {"cart": 1, "user_id": stored}
    assert await at.data(token) == {}
    assert await ids(at, str(stored)) == [token_of(answer)[:20]]


@pytest.mark.standard(8, "ASVS 7.2.4")
@pytest.mark.parametrize("user", ["7", 7], ids=repr)
async def test_the_same_user_again(at: Setting, user: str | int) -> None:
    """A new token for the same session, whose lifetime begins again; the old one opens nothing."""
    token = await at.begin({"user_id": 7, "cart": 1})
    session = await at.load(token)
    before = session.authenticated_at, session.expires_at
    at.clock.advance(DAY)
    session = await at.load(token)
    session.sign_in(user)

    answer = await at.commit(session)

    assert answer.outcome is Outcome.REAUTHENTICATE
    assert token_of(answer)[:20] == token[:20]
    assert await at.data(token) == {}
    assert await at.data(token_of(answer)) == {"user_id": 7, "cart": 1}
    after = session.authenticated_at, session.expires_at
    assert None not in (*before, *after)
    assert all(now > was for now, was in zip(after, before, strict=True) if now and was)


async def test_over_another_user(at: Setting) -> None:
    """Another's data stay behind."""
    session = await at.load(await at.begin({"user_id": "ann", "cart": ["hers"]}))
    session.sign_in("bob")
    answer = await at.commit(session)
    assert answer.outcome is Outcome.SWITCH
    assert await at.data(token_of(answer)) == {"user_id": "bob"}


async def test_over_data_that_are_left(at: Setting) -> None:
    """They are for the one who left them."""
    for user, kept in (("ann", {"cart": ["hers"]}), ("bob", {})):
        session = await at.load(await at.begin({"user_id": "ann", "cart": ["hers"]}))
        session.sign_out()
        left = token_of(await at.commit(session))
        session = await at.load(left)
        assert dict(session) == {"cart": ["hers"]}
        session.sign_in(user)
        assert await at.data(token_of(await at.commit(session))) == {"user_id": user, **kept}


@pytest.mark.parametrize("status", [400, 404, 500])
@pytest.mark.parametrize("was", [None, "ann"])
async def test_an_error_signs_nobody_in(at: Setting, status: int, was: str | None) -> None:
    """Neither a first time nor again."""
    token = await at.begin({"cart": 1} | ({"user_id": was} if was else {}))
    session = await at.load(token)
    session.sign_in("ann")
    assert (await at.commit(session, status)).token is None
    assert (await at.load(token)).principal == was


async def test_again_in_a_session_that_ended_meanwhile(at: Setting) -> None:
    """Who has just proved who they are is signed in, under a new id."""
    token = await at.begin(ALICE)
    session, other = await at.load(token), await at.load(token)
    other.clear()
    await at.commit(other)
    session.sign_in("alice")
    answer = await at.commit(session)
    assert token_of(answer)[:20] != token[:20]
    assert (await at.load(token_of(answer))).principal == "alice"


async def test_after_clear(at: Setting) -> None:
    """It begins a session of its own; before clear(), it is forgotten with the rest."""
    token = await at.begin(ALICE)
    session = await at.load(token)
    session.sign_in("bob")
    session.clear()
    session.sign_in("alice")
    answer = await at.commit(session)
    assert (answer.outcome, await at.data(token)) == (Outcome.GAIN, {})
    assert await at.data(token_of(answer)) == ALICE


async def test_late(at: Setting) -> None:
    """Once the response has started, the browser can't learn a token, of the same user either."""
    token = await at.begin(ALICE)
    reply = await at.request(lambda session: session.sign_in("alice"), token, late=True)
    with pytest.raises(SessionError, match="has started"):
        reply.checked()


# -- out


async def test_it_signs_out(at: Setting) -> None:
    """The principal is removed, and the rest goes on under a new id."""
    token = await at.begin({"user_id": "ann", "cart": 1})
    session = await at.load(token)
    session.sign_out()
    answer = await at.commit(session)
    assert answer.outcome is Outcome.LOSE
    assert await at.data(token) == {}
    assert await at.data(token_of(answer)) == {"cart": 1}
    assert await ids(at, "ann") == []


async def test_nobody_signs_out(at: Setting) -> None:
    """It changes nothing."""
    session = await at.load(await at.begin({"cart": 1}))
    session.sign_out()
    assert (await at.commit(session)).outcome is Outcome.NOTHING


async def test_in_and_out(at: Setting) -> None:
    """Who is signed out again in the same request leaves no trace."""
    token = await at.begin({"cart": 1})
    session = await at.load(token)
    session.sign_in("ann")
    session.sign_out()
    assert (await at.commit(session)).outcome is Outcome.NOTHING
    assert await at.data(token) == {"cart": 1}


# -- a dotted path


@pytest.mark.parametrize("path", ["user.sub", "account.user.sub"])
async def test_a_path_begins_anew(path: str) -> None:
    """Where another was, or nobody, nothing else is in the dict that it sets."""
    at = Setting(principal=path)
    first = path.partition(".")[0]
    for before in ({"x": 1}, {first: {"name": "a visitor"}}, {first: 5}, {first: None}):
        session = await at.load(await at.begin(before))
        session.sign_in("ann")
        ann = session[first] if first == "user" else session[first]["user"]
        assert ann == {"sub": "ann"}
        assert len(session[first]) == 1
        token = token_of(await at.commit(session))
        again = await at.load(token)
        again.sign_in("bob")
        answer = await at.commit(again)
        assert answer.outcome is Outcome.SWITCH
        assert (await at.load(token_of(answer))).principal == "bob"


async def test_a_path_that_is_set_is_left_alone() -> None:
    """What the request, or the same user's session, holds beside the principal stays."""
    at = Setting(principal="user.sub")
    userinfo = {"sub": "ann", "name": "Ann"}
    session = await at.load(None)
    session["user"] = userinfo
    session.sign_in("ann")
    assert session["user"] is userinfo

    again = await at.load(token_of(await at.commit(session)))
    again.sign_in("ann")
    answer = await at.commit(again)

    assert answer.outcome is Outcome.REAUTHENTICATE
    assert await at.data(token_of(answer)) == {"user": userinfo}


async def test_out_of_a_path() -> None:
    """The first key goes, which applications test for."""
    at = Setting(principal="user.sub")
    session = await at.load(await at.begin({"user": {"sub": "ann", "name": "Ann"}, "cart": 1}))
    session.sign_out()
    assert await at.data(token_of(await at.commit(session))) == {"cart": 1}


# -- what it doesn't take


def user_id(data: Mapping[str, Any]) -> Any:
    return data.get("user_id")


@pytest.mark.parametrize("user", [None, "", True, 1.5, b"ann", ["ann"], {"sub": "ann"}], ids=repr)
async def test_what_identifies_nobody_is_refused(at: Setting, user: Any) -> None:
    """The error names the type and what to give; the session stays as it was."""
    session = await at.load(await at.begin({"cart": 1}))
    with pytest.raises(ConfigurationError, match="a str, an int or a UUID") as caught:
        session.sign_in(user)
    assert (type(user).__name__ if user != "" else "empty") in str(caught.value)
    assert ("sign_out()" in str(caught.value)) == (user is None)
    assert "ann" not in str(caught.value)
    assert (await at.commit(session)).outcome is Outcome.NOTHING


async def test_what_is_there_may_be_wrong(at: Setting) -> None:
    """A principal that is none, or a value that can't be stored, is replaced."""
    for wrong in ({"id": 1}, object()):
        session = await at.load(await at.begin({"cart": 1}))
        session["user_id"] = wrong
        session.sign_in("ann")
        assert (await at.commit(session)).outcome is Outcome.GAIN


@pytest.mark.parametrize("verb", ["sign_in", "sign_out"])
async def test_a_callable_principal(verb: str) -> None:
    """Nobody knows which keys it looks at; the error says what to write."""
    at = Setting(principal=user_id)
    session = await at.load(None)
    with pytest.raises(ConfigurationError, match=r"set these keys .* authenticated\(\); .* remove"):
        session.sign_in("ann") if verb == "sign_in" else session.sign_out()


@pytest.mark.parametrize("verb", ["sign_in", "sign_out"])
async def test_a_session_that_isnt_loaded(at: Setting, verb: str) -> None:
    """Both raise, and say why, as everything else does."""
    session = unloaded(backend_of(at.manager), [], StoreUnavailableError(WHY))
    with pytest.raises(StoreUnavailableError, match=WHY):
        session.sign_in("ann") if verb == "sign_in" else session.sign_out()


def test_what_it_promises_is_written_there() -> None:
    """An editor shows what the two do with the data."""
    assert "left behind" in (inspect.getdoc(Session.sign_in) or "")
    assert "keep what else" in (inspect.getdoc(Session.sign_out) or "")

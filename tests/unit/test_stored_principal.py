"""Who is signed in is judged by what is stored, whatever the session's keys and values are."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping
from typing import Any

import pytest

from redis_sessions import ConfigurationError, SessionError
from redis_sessions.session.outcome import Outcome
from tests.unit.setting import Setting, token_of
from tests.unit.visits import ids


class Key(enum.Enum):
    USER = "user_id"
    SUB = "sub"
    NAME = "username"


class Shy(str):
    """A str that no dict finds by its text."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 5

    def __eq__(self, other: object) -> bool:
        return self is other


def user_id(data: Mapping[str, Any]) -> Any:
    return data.get("user_id")


KEYS: list[Hashable] = [Key.USER, Shy("user_id")]


@pytest.mark.parametrize("key", KEYS, ids=["an Enum member", "a str of its own"])
class TestAKeyThatIsStoredAsTheOne:
    """A key that isn't a plain str, and is stored as the principal's key."""

    async def test_setting_it_signs_in(self, at: Setting, key: Any) -> None:
        """A new id and token, and an entry in the index; the anonymous session ends."""
        token = await at.begin({"cart": 1})
        session = await at.load(token)
        session[key] = "alice"
        assert session.principal == "alice"

        answer = await at.commit(session)

        assert answer.outcome is Outcome.GAIN
        assert token_of(answer)[:20] != token[:20]
        assert await ids(at) == [token_of(answer)[:20]]
        assert await at.data(token) == {}
        assert (await at.load(token_of(answer))).principal == "alice"

    async def test_setting_it_over_another(self, at: Setting, key: Any) -> None:
        """It is a switch: the last of the two keys is what is stored."""
        session = await at.load(await at.begin({"user_id": "alice", "x": ["hers"]}))
        session[key] = "bob"
        assert session.principal == "bob"
        answer = await at.commit(session)
        assert answer.outcome is Outcome.SWITCH
        assert await at.data(token_of(answer)) == {"user_id": "bob"}

    async def test_signing_in_and_out_by_method(self, at: Setting, key: Any) -> None:
        """The methods take its place."""
        session = await at.load(await at.begin({"user_id": "alice"}))
        session[key] = "carol"
        session.sign_in("bob")
        assert (session.principal, dict(session)) == ("bob", {"user_id": "bob"})
        session[key] = "carol"
        session.sign_out()
        assert (session.principal, dict(session)) == (None, {})

    async def test_save_leaves_it_to_the_response(self, at: Setting, key: Any) -> None:
        """A sign-in travels with a token."""
        token = await at.begin({"cart": 1})
        session = await at.load(token)
        session[key] = "alice"
        await session.save()
        assert await at.data(token) == {"cart": 1}
        assert (await at.commit(session)).outcome is Outcome.GAIN

    async def test_update_refuses_it(self, at: Setting, key: Any) -> None:
        """As any sign-in by update()."""
        session = await at.load(await at.begin({"cart": 1}))
        with pytest.raises(SessionError, match="can't sign in"):
            await at.manager.update(session, lambda data: data.update({key: "alice"}))

    async def test_refresh_keeps_it(self, at: Setting, key: Any) -> None:
        """What was set here stays set, by the key that it is stored under."""
        token = await at.begin({"cart": 1})
        session, other = await at.load(token), await at.load(token)
        other["cart"] = 2
        await at.commit(other)
        session[key] = "alice"
        await session.refresh()
        assert dict(session) == {"cart": 2, "user_id": "alice"}
        assert (await at.commit(session)).outcome is Outcome.GAIN

    async def test_a_merge_keeps_it(self, at: Setting, key: Any) -> None:
        """The session has each key once after others' changes were merged into the sign-in."""
        token = await at.begin({"cart": 1})
        session, other = await at.load(token), await at.load(token)
        other["more"] = 2
        await at.commit(other)
        session[key] = "alice"
        answer = await at.commit(session)
        assert await at.data(token_of(answer)) == {"cart": 1, "more": 2, "user_id": "alice"}
        assert dict(session) == {"cart": 1, "more": 2, "user_id": "alice"}
        assert (await at.commit(session)).outcome is Outcome.NOTHING

    async def test_inside_of_a_path(self, key: Any) -> None:
        """So it is with the keys of a dotted path."""
        at = Setting(principal="user_id.sub")
        session = await at.load(await at.begin({"cart": 1}))
        session[key] = {Key.SUB: "alice"}
        assert session.principal == "alice"
        assert (await at.commit(session)).outcome is Outcome.GAIN

    async def test_for_a_callable(self, key: Any) -> None:
        """It gets the data as they are stored."""
        at = Setting(principal=user_id)
        session = await at.load(await at.begin({"cart": 1}))
        session[key] = "alice"
        assert session.principal == "alice"
        assert (await at.commit(session)).outcome is Outcome.GAIN

    async def test_its_removal_signs_out_a_failed_request(self, at: Setting, key: Any) -> None:
        """A sign-out holds whatever else can't be stored; a value that can't be isn't one."""
        token = await at.begin({"user_id": "alice", "x": 1})
        session = await at.load(token)
        session["x"] = object()
        session[key] = object()
        await at.commit(session, status=500)
        assert await at.data(token) == {"user_id": "alice", "x": 1}
        del session[key], session["user_id"]
        await at.commit(session, status=500)
        assert await at.data(token) == {}


async def test_two_keys_that_are_stored_as_one(at: Setting) -> None:
    """The last one counts, in the request that sets them and afterwards."""
    enum_first: dict[Any, Any] = {Key.USER: "alice", "user_id": "bob"}
    str_first: dict[Any, Any] = {"user_id": "alice", Key.USER: "bob"}
    for data in (enum_first, str_first):
        session = await at.load(None)
        session.update(data)
        assert session.principal == "bob"
        answer = await at.commit(session)
        assert (await at.load(token_of(answer))).principal == "bob"
    assert len(await ids(at, "bob")) == 2


async def test_keys_of_other_types_hide_nothing(at: Setting) -> None:
    """An int, None or a tuple as a key: who is signed in is found beside it."""
    session = await at.load(await at.begin({"x": 1}))
    others: dict[Any, Any] = {5: 1, None: 2, (1, 2): 3, b"user_id": 4}
    session.update({**others, "user_id": "alice"})
    assert session.principal == "alice"
    assert (await at.commit(session)).outcome is Outcome.GAIN


@pytest.mark.parametrize("option", ["user_id", 'a"b', "user id.sub", "Ünïcode"])
async def test_any_text_is_a_key(option: str) -> None:
    """Whatever the principal's key is called, signing in is seen."""
    at = Setting(principal=option)
    session = await at.load(await at.begin({"x": 1}))
    session.sign_in("alice")
    assert (await at.commit(session)).outcome is Outcome.GAIN
    session.sign_out()
    assert (await at.commit(session)).outcome is Outcome.LOSE


async def test_the_hint_sees_it(at: Setting, caplog: pytest.LogCaptureFixture) -> None:
    """The warning that nobody is signed in looks at the keys that are stored."""
    session = await at.load(await at.begin({"x": 1}))
    name: Any = Key.NAME
    session[name] = "ann"
    await at.commit(session)
    assert "nobody is signed in" in caplog.text


@pytest.mark.parametrize("value", [{"sub": 1}, [1], True, 1.5, b"ann"], ids=repr)
async def test_what_cant_be_a_principal_is_refused(at: Setting, value: object) -> None:
    """By whatever key it is set."""
    session = await at.load(await at.begin({"x": 1}))
    key: Any = Key.USER
    session[key] = value
    with pytest.raises(ConfigurationError, match="can't be compared"):
        await at.commit(session)

"""Merging what two requests changed never changes who is signed in."""

from __future__ import annotations

from typing import Any

import pytest

from redis_sessions import Answer, Commit, SessionConflictError
from redis_sessions.session.outcome import Outcome
from tests.unit.concurrent_requests.principals import either, second_factor
from tests.unit.setting import Setting, token_of


@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize(
    ("principal", "begun", "signs_in", "others"),
    [
        ("user_id", {"x": 1}, {"user_id": "A"}, {"user_id": None}),
        ("user.sub", {"user": {"lang": "en"}}, {"user": {"sub": "A"}}, {"user": {"lang": "de"}}),
        (second_factor, {"x": 1}, {"user": "A", "mfa": True}, {"user": "B"}),
        (second_factor, {"user": "A"}, {"user": "A", "mfa": True}, {"mfa": False}),
    ],
    ids=["key", "path", "callable", "callable, the other half"],
)
async def test_the_keys_of_a_sign_in_win(
    principal: Any,
    begun: dict[str, Any],
    signs_in: dict[str, Any],
    others: dict[str, Any],
    when: str,
) -> None:
    """Another request's change of a key that the sign-in set doesn't take the principal away."""
    at = Setting(principal=principal)
    token = await at.begin(begun)
    signing = await at.load(token)
    signing.update(signs_in)

    async def other(expected: bytes | None, result: Commit) -> None:
        at.store.committed = None
        await at.put(token, {**others, "y": 2})

    if when == "before":
        await other(None, Commit.STORED)
    else:
        at.store.committed = other
    answer = await at.commit(signing)
    assert answer.outcome is Outcome.GAIN
    signed_in = await at.load(token_of(answer))
    assert dict(signed_in) == {**begun, **signs_in, "y": 2}
    assert (signed_in.principal, signing.principal) == ("A", "A")
    assert at.reported("merged") == [None]
    assert await at.data(token) == {}


async def test_other_keys_of_a_sign_in_win(at: Setting) -> None:
    """The sign-in, which commits later, wins the keys that both changed."""
    token = await at.begin({"cart": 0})
    signing = await at.load(token)
    signing.update(user_id="A", cart="merged with the saved one")
    await at.put(token, {"cart": 1})
    answer = await at.commit(signing)
    stored = {"user_id": "A", "cart": "merged with the saved one"}
    assert await at.data(token_of(answer)) == stored
    assert dict(signing) == stored


@pytest.mark.parametrize("user", ["B", None])
async def test_no_place_after_the_sign_in(user: str | None) -> None:
    """Of an anonymous request's changes none that would sign in somebody else moves along."""
    at = Setting(principal=second_factor)
    token = await at.begin({"user": "A"})
    signing = await at.load(token)
    signing["mfa"] = True
    await at.put(token, {"user": user})
    signed_in = await at.load(token_of(await at.commit(signing)))
    assert dict(signed_in) == dict(signing) == {"user": "A", "mfa": True}
    assert signed_in.principal == "A"
    assert at.reported("dropped") == ["no place after the sign-in"]
    assert at.reported("merged") == []


async def test_no_room_after_the_sign_in() -> None:
    """What is too large together with the sign-in's data doesn't move along."""
    at = Setting(max_size=100)
    token = await at.begin({"x": 1})
    signing = await at.load(token)
    signing.update(user_id="A", mine="m" * 50)
    await at.put(token, {"theirs": "t" * 50})
    answer = await at.commit(signing)
    assert await at.data(token_of(answer)) == {"x": 1, "user_id": "A", "mine": "m" * 50}
    assert at.reported("dropped") == ["no place after the sign-in"]


@pytest.mark.parametrize("how", ["commit", "save", "rotate"])
async def test_changes_that_together_sign_in(how: str) -> None:
    """Two anonymous changes that compose a principal don't sign in under the id they share."""
    at = Setting(principal=second_factor)
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["mfa"] = True
    await at.put(token, {"user": "B"})
    if how == "rotate":
        session.rotate()
    with pytest.raises(SessionConflictError, match="who is signed in"):
        await (session.save() if how == "save" else at.commit(session))
    again = await at.load(token)
    assert dict(again) == {"x": 1, "user": "B"}
    assert again.principal is None


async def test_changes_that_together_sign_out() -> None:
    """Two changes that each leave the principal don't take it away together."""
    at = Setting(principal=either)
    token = await at.begin({"user": "A", "guest": "A"})
    one, two = await at.load(token), await at.load(token)
    del one["user"], two["guest"]
    await at.commit(one)
    with pytest.raises(SessionConflictError, match="who is signed in"):
        await at.commit(two)
    assert await at.data(token) == {"guest": "A"}


@pytest.mark.parametrize(
    ("principal", "begun", "others"),
    [
        ("user_id", {"user_id": 7}, {"user_id": "7"}),
        ("user.sub", {"user": {"sub": 7}}, {"user": {"sub": 7, "lang": "de"}}),
        (second_factor, {"user": 7, "mfa": True}, {"mfa": 2}),
        (either, {"user": 7}, {"guest": 7}),
    ],
    ids=["key", "path", "callable", "callable, the other half"],
)
async def test_changes_that_leave_the_principal_merge(
    principal: Any, begun: dict[str, Any], others: dict[str, Any]
) -> None:
    """Another request may change the keys of the principal, if it is the same afterwards."""
    at = Setting(principal=principal)
    token = await at.begin(begun)
    session = await at.load(token)
    session["x"] = 1
    await at.put(token, others)
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    again = await at.load(token)
    assert dict(again) == dict(session) == {**begun, **others, "x": 1}
    assert again.principal == "7"

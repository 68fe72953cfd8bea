"""Typed values count by what is stored of them, in sign-ins and in merges."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from redis_sessions import Answer, Session
from redis_sessions.session.outcome import Outcome
from tests.unit.setting import Setting, token_of


class User(msgspec.Struct, rename="camel"):
    """Stored as `subId`."""

    sub_id: str


class Account:
    """What only an enc_hook can store."""

    def __init__(self, sub: str) -> None:
        self.sub = sub


def encode(value: object) -> object:
    if isinstance(value, Account):
        return {"sub": value.sub}
    raise NotImplementedError


def decode(type: type[Any], value: Any) -> Any:
    return Account(value["sub"])


TYPED: Final = pytest.mark.parametrize(
    ("options", "stored", "value"),
    [
        ({"principal": "user.subId"}, {"subId": "A"}, User("A")),
        (
            {"principal": "user.sub", "enc_hook": encode, "dec_hook": decode},
            {"sub": "A"},
            Account("A"),
        ),
    ],
    ids=["renamed", "enc_hook"],
)


@TYPED
async def test_typed_sign_in(options: dict[str, Any], stored: Any, value: object) -> None:
    """A sign-in with a typed value counts by what is stored of it: it gives a new id."""
    at = Setting(**options)
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["user"] = value
    answer = await at.commit(session)
    assert answer.outcome is Outcome.GAIN
    signed_in = await at.load(token_of(answer))
    assert (dict(signed_in), signed_in.principal) == ({"x": 1, "user": stored}, "A")
    assert await at.data(token) == {}


@TYPED
async def test_typed_read_signs_nobody_out(
    options: dict[str, Any], stored: Any, value: object
) -> None:
    """Reading the principal's value with get_as, and changing another key, changes just that."""
    at = Setting(**options)
    token = token_of(await at.put(await at.begin({"n": 0}), {"user": stored}))
    session = await at.load(token)
    assert session.get_as("user", type(value)) is not None
    session["n"] = 1
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    again = await at.load(token)
    assert (dict(again), again.principal) == ({"n": 1, "user": stored}, "A")
    assert at.reported("ended") == ["signed in"]  # the anonymous one


@TYPED
async def test_principal_of_a_typed_value(
    options: dict[str, Any], stored: Any, value: object
) -> None:
    """session.principal is the same before and after get_as converts its value."""
    at = Setting(**options)
    session = await at.load(await at.begin({"user": stored}))
    assert session.principal == "A"
    session.get_as("user", type(value))
    assert session.principal == "A"


class Cart(msgspec.Struct):
    """Encodes to more than what was stored."""

    items: list[str]
    note: str = ""


async def cart_in(session: Session) -> Cart:
    cart = session.get_as("cart", Cart)
    assert cart is not None
    return cart


@pytest.mark.parametrize("how", ["merged save", "refresh", "merging refresh", "all"])
async def test_converted_values_survive(at: Setting, how: str) -> None:
    """An object of get_as stays the session's, and unchanged, over a merged save() or refresh()."""
    token = await at.begin({"cart": {"items": ["a"]}, "x": 0})
    session = await at.load(token)
    cart = await cart_in(session)
    if how in ("merged save", "all"):
        await at.put(token, {"y": 1})
        session["x"] = 1
        await session.save()
    if how in ("merging refresh", "all"):
        await at.put(token, {"z": 1})
    if how != "merged save":
        await session.refresh()
    assert session["cart"] is cart
    assert await at.commit(session) == Answer(Outcome.NOTHING)
    assert (await at.data(token))["cart"] == {"items": ["a"]}
    cart.items.append("b")
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    assert (await at.data(token))["cart"] == {"items": ["a", "b"], "note": ""}


@pytest.mark.parametrize("how", ["save", "refresh"])
async def test_converted_value_that_others_changed(at: Setting, how: str) -> None:
    """An unchanged object of get_as gives way to what another request stored."""
    token = await at.begin({"cart": {"items": ["a"]}, "x": 0})
    session = await at.load(token)
    await cart_in(session)
    await at.put(token, {"cart": {"items": ["b"]}})
    session["x"] = 1
    await getattr(session, how)()
    assert session["cart"] == {"items": ["b"]}
    await at.commit(session)
    assert await at.data(token) == {"cart": {"items": ["b"]}, "x": 1}


@pytest.mark.parametrize("how", ["save", "refresh"])
async def test_converted_value_that_was_changed_here(at: Setting, how: str) -> None:
    """A changed object of get_as is a change like any other over a merged save() or refresh()."""
    token = await at.begin({"cart": {"items": ["a"]}})
    session = await at.load(token)
    cart = await cart_in(session)
    cart.items.append("b")
    await at.put(token, {"y": 1})
    await getattr(session, how)()
    assert session["cart"] is cart
    cart.items.append("c")
    await at.commit(session)
    assert await at.data(token) == {"cart": {"items": ["a", "b", "c"], "note": ""}, "y": 1}

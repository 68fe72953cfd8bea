"""Signing in over another's data: only what this request assigned goes along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from weakref import WeakSet

import msgspec
import pytest

from redis_sessions import Session, SessionError
from redis_sessions.session.outcome import Outcome
from tests.unit.setting import Setting, count, token_of

MESSAGE = "Alice, your test result is here"
ALICES: Final[dict[str, Any]] = {
    "user_id": "alice",
    "_messages": [MESSAGE],
    "profile": {"name": "Alice Example", "address": {"street": "1 Elm Street"}, "roles": ["user"]},
    "visits": 5,
    "theme": "dark mode",
    "twice": ["read me", "read me"],
    "born": ["2001-02-03", 1.5],
}
Act = Callable[[Session], Any]


async def over_alices(at: Setting, *acts: Act, data: dict[str, Any] = ALICES) -> dict[str, Any]:
    """What Bob's session holds after he signed in over Alice's in a request that did this."""
    session = await at.load(await at.begin(data))
    for act in acts:
        act(session)
    session.sign_in("bob")
    answer = await at.commit(session)
    assert answer.outcome is Outcome.SWITCH
    stored = await at.data(token_of(answer))
    assert session.keys() == stored.keys()
    return stored


def flash(session: Session) -> None:
    """As flash messages are written everywhere."""
    session.setdefault("_messages", []).append("Welcome, Bob")


def put(key: str, value: Any) -> Act:
    return lambda session: session.update({key: value})


async def test_what_was_changed_in_place_stays_behind(at: Setting) -> None:
    """A message appended to Alice's list shows Bob none of hers; that it was dropped is told."""
    assert await over_alices(at, flash) == {"user_id": "bob"}
    assert at.reported("dropped") == ["another's data"]


async def test_what_was_assigned_goes_along(at: Setting) -> None:
    """New objects, also under a key of Alice's, and equal to what she had there."""
    new = {"cart": ["pear"], "theme": "light mode", "profile": {"name": "Bob", "roles": ["user"]}}
    same = [MESSAGE[:5] + MESSAGE[5:]]

    kept = await over_alices(at, *(put(*item) for item in new.items()), put("_messages", same))

    assert kept == {"user_id": "bob", **new, "_messages": [MESSAGE]}
    assert at.reported("dropped") == []


async def test_after_a_sign_out_as_well(at: Setting) -> None:
    """What a sign-out left with the browser is Alice's, whoever signs in next."""
    session = await at.load(await at.begin(ALICES))
    session.sign_out()
    left = token_of(await at.commit(session))
    session = await at.load(left)
    flash(session)
    session["user_id"] = "bob"
    assert await at.data(token_of(await at.commit(session))) == {"user_id": "bob"}


def move(key: str, find: Callable[[Session], Any]) -> Act:
    return lambda session: session.update({key: find(session)})


def convert(session: Session) -> Profile:
    converted = session.get_as("profile", Profile)
    assert converted is not None
    return converted


HERS: Final[dict[str, Act]] = {
    "another name": move("b", lambda s: s["_messages"]),
    "inside of a dict": move("b", lambda s: {"m": s["_messages"]}),
    "as a key": move("b", lambda s: {s["theme"]: 1}),
    "a str, in lists": move("b", lambda s: [[s["theme"]]]),
    "in a tuple": move("b", lambda s: (s["profile"]["name"],)),
    "a copy": move("b", lambda s: s["_messages"][:]),
    "a copy of a dict": move("b", lambda s: dict(s["profile"])),
    "popped": move("b", lambda s: s.pop("_messages")),
    "popped from a list": move("b", lambda s: s["_messages"].pop()),
    "popped, one of two": move("b", lambda s: s["twice"].pop()),
    "popped, as a date": move("b", lambda s: date.fromisoformat(s["born"].pop(0))),
    "popped, a float": move("b", lambda s: s["born"].pop()),
    "popped from a dict": move("b", lambda s: s["profile"].pop("address")),
    "with more": move("_messages", lambda s: [*s["_messages"], "Hi"]),
    "merged": move("profile", lambda s: s["profile"] | {"name": "Bob"}),
    "in a dataclass": move("b", lambda s: Note(s["theme"])),
    "in a struct": move("b", lambda s: Card(title=s["theme"])),
    "itself": move("theme", lambda s: s["theme"]),
    "converted": move("b", convert),
    "a converted one": move("b", lambda s: [convert(s)]),
    "converted in place": lambda s: convert(s).roles.append("x"),
}


@pytest.mark.parametrize("act", HERS.values(), ids=HERS)
async def test_an_object_of_hers_stays_behind(at: Setting, act: Act) -> None:
    """Wherever the request put it."""
    assert await over_alices(at, act) == {"user_id": "bob"}


class Card(msgspec.Struct):
    title: str
    note: str = "nothing special"


@dataclass
class Note:
    text: str


@dataclass
class Profile:
    name: str
    roles: list[str] = field(default_factory=list[str])
    plan: str = "the free plan"


async def test_constants_of_the_application_are_nobodys(at: Setting) -> None:
    """What a conversion of hers added as a default, or a change wrote, may be Bob's as well."""
    said = "the application says so"
    kept = await over_alices(
        at,
        convert,
        lambda s: s["_messages"].append(said),
        put("b", Profile("Bob")),
        put("c", said),
    )
    assert kept.keys() == {"user_id", "b", "c"}


async def test_what_pythons_have_in_common_goes_along(at: Setting) -> None:
    """None, a flag, a small number or "" was assigned, for all that one can tell."""
    new: dict[str, Any] = {"a": None, "b": True, "c": 5, "d": "", "e": [], "f": {}}
    data: dict[str, Any] = {**ALICES, "x": [None, True, 5, "", (), {}], "y": {"e": []}}

    kept = await over_alices(
        at, *(put(*item) for item in new.items()), lambda s: s["y"]["e"].append(1), data=data
    )

    assert kept == {"user_id": "bob", **new}


async def test_what_the_store_brought_since_stays_behind(at: Setting) -> None:
    """By refresh(), update() or a merge: it is hers like what was loaded."""
    token = await at.begin(ALICES)
    session, other = await at.load(token), await at.load(token)
    other["late"] = ["a late secret"]
    await at.commit(other)
    await session.refresh()
    session["b"] = {"m": session["late"]}
    session["mine"] = ["Bob's own"]
    session["c"] = await at.manager.update(session, lambda data: data["profile"])
    session["e"] = await at.manager.update(session, lambda data: data.pop("theme"))
    await at.manager.update(session, count)
    session["d"] = ["still", "Bob's own"]
    session.sign_in("bob")

    kept = await at.data(token_of(await at.commit(session)))

    assert kept == {"user_id": "bob", "mine": ["Bob's own"], "d": ["still", "Bob's own"]}


@pytest.mark.parametrize("how", ["commit", "save", "merge"])
async def test_what_was_saved_before_is_hers(at: Setting, how: str) -> None:
    """What the request stored in her session, before somebody else signed in, is in her record."""
    token = await at.begin(ALICES)
    session = await at.load(token)
    session["note"] = ["for Alice"]
    if how == "merge":
        other = await at.load(token)
        other["more"] = ["from elsewhere"]
        await at.commit(other)
    await (at.commit(session) if how == "commit" else session.save())
    session["note"].append("and more")
    if how == "merge":
        session["b"] = session["more"]
    session["c"] = ["Bob's own"]
    session["user_id"] = "bob"

    kept = await at.data(token_of(await at.commit(session)))

    assert kept == {"user_id": "bob", "c": ["Bob's own"]}


class Saved(list[int]):
    """A value of which one can tell whether anything still holds it."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # by what it is, for a WeakSet


async def test_a_session_that_is_saved_for_ever_holds_no_more(at: Setting) -> None:
    """What a worker's session remembers of its record is bounded."""
    session = await at.load(await at.begin(ALICES))
    saved = WeakSet[Saved]()
    for n in range(200):
        session["n"] = value = Saved([n])
        saved.add(value)
        await session.save()
    assert len(saved) <= 64 + 1


# -- a principal inside of a dict

NESTED: Final[dict[str, Any]] = {
    "user": {"sub": "alice", "email": "alice@example.org", "admin": True}
}


BESIDE: Final[dict[str, tuple[Act, dict[str, Any]]]] = {
    "in place": (lambda s: s["user"].update(sub="bob"), {"sub": "bob"}),
    "in place, with more of Bob's": (
        lambda s: s["user"].update(sub="bob", name="Bob", email="bob@example.org"),
        {"sub": "bob", "name": "Bob", "email": "bob@example.org"},
    ),
    "a copy": (move("user", lambda s: {**s["user"], "sub": "bob"}), {"sub": "bob"}),
    "assigned": (put("user", {"sub": "bob", "admin": True}), {"sub": "bob", "admin": True}),
    "converted": (lambda s: setattr(s.get_as("user", User), "sub", "bob"), {"sub": "bob"}),
    "sign_in()": (lambda s: s.sign_in("bob"), {"sub": "bob"}),
}


@pytest.mark.parametrize(("act", "kept"), BESIDE.values(), ids=BESIDE)
async def test_beside_the_principal_is_nothing_of_hers(act: Act, kept: dict[str, Any]) -> None:
    """The principal goes along, and what this request assigned beside it."""
    at = Setting(principal="user.sub")
    session = await at.load(await at.begin(NESTED))
    act(session)

    answer = await at.commit(session)

    assert answer.outcome is Outcome.SWITCH
    assert await at.data(token_of(answer)) == {"user": kept}


@dataclass
class User:
    sub: str
    email: str
    admin: bool = False


def sub(data: Mapping[str, Any]) -> Any:
    return data.get("user", {}).get("sub")


async def test_a_callables_keys_are_to_be_assigned() -> None:
    """What was changed in place isn't taken for who signs in: an error says what to do."""
    at = Setting(principal=sub)
    session = await at.load(await at.begin(NESTED))
    session["user"]["sub"] = "bob"
    with pytest.raises(SessionError, match="set every key that it looks at to a new object"):
        await at.commit(session)
    session["user"] = {"sub": "bob"}
    assert await at.data(token_of(await at.commit(session))) == {"user": {"sub": "bob"}}

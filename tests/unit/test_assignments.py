"""Signing in over another's data: what counts as assigned, and what clear() changes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from redis_sessions import Session, SessionError, StoreUnavailableError
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.session import state_of
from redis_sessions.stores.protocols import Commit
from tests.unit.setting import Setting, count, token_of

LONG: Final = "/private/the-diagnosis-of-a-rare-disease"
HERS: Final[dict[str, Any]] = {
    "user_id": "alice",
    "mfa_pending": True,
    "tenant": 5,
    "note": None,
    "mode": "dark",
    "name": "Alice Example",
    "messages": ["Alice's message"],
    "visits": {LONG: 1},
}
Act = Callable[[Session], Any]


class Mode(enum.Enum):
    DARK = "dark"


class Key(enum.Enum):
    TENANT = "tenant"


ASSIGNS: Final[dict[str, Act]] = {
    "session[key] = value": lambda s: s.__setitem__("mfa_pending", True),
    "update()": lambda s: s.update({"mfa_pending": True}),
    "update() by pairs": lambda s: s.update([("mfa_pending", True)]),
    "update() by name": lambda s: s.update(mfa_pending=True),
    "|=": lambda s: s.__ior__({"mfa_pending": True}),
    "setdefault()": lambda s: (s.pop("mfa_pending"), s.setdefault("mfa_pending", True)),
}


def sign_in(session: Session) -> None:
    session.sign_in("bob")


def set_principal(session: Session) -> None:
    session["user_id"] = "bob"


async def stored_after(at: Setting, *acts: Act) -> dict[str, Any]:
    """What is stored by a request that did this in Alice's session."""
    session = await at.load(await at.begin(HERS))
    for act in acts:
        act(session)
    stored = await at.data(token_of(await at.commit(session)))
    assert session == stored
    return stored


@pytest.mark.parametrize("enters", [sign_in, set_principal], ids=lambda act: act.__name__)
@pytest.mark.parametrize("assigns", ASSIGNS.values(), ids=ASSIGNS)
async def test_a_constant_that_was_assigned_goes_along(
    at: Setting, assigns: Act, enters: Act
) -> None:
    """A flag of Bob's counts, though Alice's session had the same one under this key."""
    assert await stored_after(at, assigns, enters) == {"user_id": "bob", "mfa_pending": True}
    assert at.reported("dropped") == []


async def test_a_constant_that_was_not_assigned_stays_behind(at: Setting) -> None:
    """Neither a flag nor a small number of Alice's is Bob's, found by setdefault() or not."""
    assert await stored_after(at, lambda s: s.setdefault("tenant", 7), set_principal) == {
        "user_id": "bob"
    }


async def test_a_key_counts_as_what_it_is_stored_as(at: Setting) -> None:
    """An Enum member is assigned as its value."""
    key: Any = Key.TENANT
    kept = await stored_after(at, lambda s: s.__setitem__(key, 5), set_principal)
    assert kept == {"user_id": "bob", "tenant": 5}


async def test_a_conversion_assigns_nothing(at: Setting) -> None:
    """What get_as() puts in a value's place is Alice's, whatever it is."""
    assert await stored_after(at, lambda s: s.get_as("mode", Mode), sign_in) == {"user_id": "bob"}


async def test_what_others_stored_was_not_assigned(at: Setting) -> None:
    """A key that was set to what it was, and then comes from another request, is Alice's."""
    token = await at.begin(HERS)
    session, other = await at.load(token), await at.load(token)
    session["tenant"] = 5
    session["mfa_pending"] = False
    other["tenant"] = 7
    await at.commit(other)
    await session.refresh()
    session.sign_in("bob")
    assert session == {"user_id": "bob", "mfa_pending": False}


async def test_what_was_saved_was_assigned_in_her_session(at: Setting) -> None:
    """Constants as well: they are in her record."""
    session = await at.load(await at.begin(HERS))
    session["step"] = 2
    await session.save()
    session.sign_in("bob")
    assert session == {"user_id": "bob"}


async def lost(expected: bytes | None, result: Commit) -> None:
    """The answer to a commit that was carried out."""
    raise StoreUnavailableError("the answer was lost", reason="timeout")


async def test_what_may_have_been_saved_is_hers(at: Setting) -> None:
    """A save() that failed may have stored it."""
    session = await at.load(await at.begin(HERS))
    session["mine"] = mine = ["for Alice"]
    at.store.committed = lost
    with pytest.raises(StoreUnavailableError):
        await session.save()
    at.store.committed = None
    session["again"] = mine
    session.sign_in("bob")
    assert session == {"user_id": "bob"}


async def test_what_was_loaded_is_never_forgotten(at: Setting) -> None:
    """However often the session was saved since."""
    session = await at.load(await at.begin(HERS))
    messages = session["messages"]
    for n in range(200):
        session["messages"] = [n]
        await session.save()
    session["b"] = messages
    session.sign_in("bob")
    assert session == {"user_id": "bob"}


async def test_keys_are_objects_of_hers(at: Setting) -> None:
    """A long key that was taken as a value, and a value that was taken as a key."""
    kept = await stored_after(
        at,
        lambda s: s.update(recent=sorted(s["visits"])),
        lambda s: s.update({s["name"]: 2}),
        sign_in,
    )
    assert kept == {"user_id": "bob"}


# -- sign_in() leaves behind what isn't Bob's, at once


async def test_sign_in_shows_nothing_of_hers(at: Setting) -> None:
    """From then on the handler has Bob's data only, and setdefault() sets them."""
    session = await at.load(await at.begin(HERS))
    session["cart"] = cart = ["pear"]
    session["messages"].append("for Bob?")
    session.sign_in("bob")
    assert session == {"user_id": "bob", "cart": ["pear"]}
    assert session.setdefault("name", "Bob") == "Bob"
    cart.append("plum")
    assert at.reported("dropped") == []
    kept = await at.data(token_of(await at.commit(session)))
    assert kept == session == {"user_id": "bob", "cart": ["pear", "plum"], "name": "Bob"}
    assert at.reported("dropped") == ["another's data"]


async def test_nothing_of_hers_comes_back(at: Setting) -> None:
    """Neither refresh() nor update() brings what her session has got meanwhile."""
    token = await at.begin(HERS)
    session, other = await at.load(token), await at.load(token)
    other["late"] = "Alice's, late"
    await at.commit(other)
    session.sign_in("bob")
    await session.refresh()
    assert session == {"user_id": "bob"}
    assert await at.manager.update(session, count) == 1
    assert await at.data(token) == other
    assert await at.data(token_of(await at.commit(session))) == {"user_id": "bob", "n": 1}


async def test_what_the_handler_has_kept_of_hers_is_still_hers(at: Setting) -> None:
    """Put into the session after sign_in(), it stays behind as well."""
    session = await at.load(await at.begin(HERS))
    messages = session["messages"]
    session.sign_in("bob")
    session["b"] = {"all": messages}
    assert await at.data(token_of(await at.commit(session))) == {"user_id": "bob"}
    assert at.reported("dropped") == ["another's data"]


async def test_after_set_principal(at: Setting) -> None:
    """Where the principal is Bob already, sign_in() leaves behind the same."""
    session = await at.load(await at.begin(HERS))
    session["user_id"] = "bob"
    assert session["name"] == "Alice Example"
    session.sign_in("bob")
    assert session == {"user_id": "bob"}


@pytest.mark.parametrize("status", [404, 500])
async def test_an_error_leaves_her_session_as_it_was(at: Setting, status: int) -> None:
    """Only this request's dict has lost her data; nothing is stored, and nothing told."""
    token = await at.begin(HERS)
    session = await at.load(token)
    session["messages"].append("more")
    session.sign_in("bob")
    assert (await at.commit(session, status)).outcome is Outcome.NOTHING
    assert await at.data(token) == HERS
    assert at.reported("dropped") == []


async def test_what_cant_be_stored_is_left_behind_too(at: Setting) -> None:
    """It doesn't keep Bob from signing in."""
    session = await at.load(await at.begin(HERS))
    session["messages"].append(object())
    session.sign_in("bob")
    assert await at.data(token_of(await at.commit(session))) == {"user_id": "bob"}


async def test_nobodys_and_ones_own_stay(at: Setting) -> None:
    """sign_in() leaves nothing behind of an anonymous session, or of the same user's."""
    for data in ({"cart": ["pear"], "step": 1}, {**HERS, "user_id": "bob"}):
        session = await at.load(await at.begin(data))
        session.sign_in("bob")
        assert session == {**data, "user_id": "bob"}


# -- after clear()


def put_back(session: Session) -> None:
    """As Litestar's `set_session({**request.session, ...})` does, too."""
    old = dict(session)
    session.clear()
    session.update(old, cart=["pear"], step=1)


def put_back_without_her(session: Session) -> None:
    put_back(session)
    del session["user_id"]


@pytest.mark.parametrize("enters", [sign_in, set_principal], ids=lambda act: act.__name__)
async def test_what_was_put_back_is_still_hers(at: Setting, enters: Act) -> None:
    """Constants were assigned; her objects stay behind, and that is told."""
    assert await stored_after(at, put_back, enters) == {
        "user_id": "bob",
        "cart": ["pear"],
        "step": 1,
        "mfa_pending": True,
        "tenant": 5,
        "note": None,
    }
    assert at.reported("dropped") == ["another's data"]


async def test_her_session_ends_all_the_same(at: Setting) -> None:
    """clear() is the end of it, whoever signs in."""
    token = await at.begin(HERS)
    session = await at.load(token)
    put_back(session)
    session.sign_in("bob")
    assert (await at.commit(session)).outcome is Outcome.GAIN
    assert await at.data(token) == {}


async def test_fresh_data_after_clear_go_along(at: Setting) -> None:
    """Whoever signs in; also a constant that she had."""
    fresh = {"mfa_pending": True, "name": "Bob Example", "messages": ["Hello"]}
    kept = await stored_after(at, Session.clear, lambda s: s.update(fresh), sign_in)
    assert kept == {"user_id": "bob", **fresh}
    assert at.reported("dropped") == []


async def test_the_same_user_keeps_what_she_puts_back(at: Setting) -> None:
    """It is hers."""
    kept = await stored_after(at, put_back, lambda s: s.sign_in("alice"))
    assert kept == {**HERS, "cart": ["pear"], "step": 1}


@pytest.mark.parametrize(("user", "hers"), [("alice", True), ("bob", False)])
async def test_what_was_put_back_for_nobody(at: Setting, user: str, hers: bool) -> None:
    """It is for her, when somebody signs in later."""
    session = await at.load(await at.begin(HERS))
    put_back_without_her(session)
    left = await at.load(token_of(await at.commit(session)))
    assert left["name"] == "Alice Example"
    left.sign_in(user)
    assert ("name" in left, "cart" in left) == (hers, hers)


async def test_fresh_data_after_clear_are_nobodys(at: Setting) -> None:
    """Without an object of hers the new session is for whoever signs in."""
    session = await at.load(await at.begin(HERS))
    session.clear()
    session["cart"] = ["pear"]
    session = await at.load(token_of(await at.commit(session)))
    session.sign_in("bob")
    assert session == {"user_id": "bob", "cart": ["pear"]}


def of_user(data: Mapping[str, Any]) -> Any:
    return data.get("user", {}).get("sub")


async def test_a_callable_after_clear() -> None:
    """What was put back doesn't say who signs in; nothing has ended when the error says so."""
    at = Setting(principal=of_user)
    token = await at.begin({"user": {"sub": "alice", "email": "alice@example.org"}})
    session = await at.load(token)
    user = session["user"]
    session.clear()
    session["user"] = {**user, "sub": "bob"}
    with pytest.raises(SessionError, match="don't say who signs in"):
        await at.commit(session)
    assert (await at.load(token)).principal == "alice"


async def test_noting_a_key_copies_none_of_those_before(at: Setting) -> None:
    """So a handler that fills a session key by key doesn't take the square of their number."""
    session = await at.load(None)
    session.setdefault("a", 1)
    noted = state_of(session).origins.assigned
    session.setdefault("b", 1)
    session.update(c=1)
    assert state_of(session).origins.assigned is noted
    assert list(noted or ()) == ["a", "b", "c"]

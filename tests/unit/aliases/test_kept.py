"""What keeps the aliases of a session, what changes them, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_sessions import AliasError, ConfigurationError, Session, StoreUnavailableError
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.keyring import SecretKey
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.record import is_record
from redis_sessions.session.state import NOTHING_WANTED, Wanted
from tests.unit.aliases.aliased import SID, names, signed_in
from tests.unit.setting import DUE, KEY, Setting, token_of
from tests.unit.visits import alive, visit

# -- what keeps them, and what changes them


@pytest.mark.parametrize("how", ["change", "rotate", "authenticated", "sign in", "expire in"])
async def test_what_keeps_the_aliases(at: Setting, how: str) -> None:
    """A change, a rotation, and a sign-in of the same user that names none."""
    token = await signed_in(at, SID)
    session = await at.load(token)
    match how:
        case "change":
            session["a"] = 1
        case "rotate":
            session.rotate()
        case "authenticated":
            session.authenticated()
        case "sign in":
            session.sign_in("alice")
        case _:
            session.expire_in(30 * 24 * 3600)
    answer = await at.commit(session)
    token = token if answer.token is None else answer.token.value
    at.clock.advance(DUE)
    await visit(at, token)
    assert await names(at, token) == ["sid=s-1"]
    assert await at.manager.revoke_by("sid", "s-1") == 1
    assert await alive(at, token) == [False]


async def test_a_session_that_ended_meanwhile_takes_its_aliases_along(at: Setting) -> None:
    """Who proves who they are, in a session that another request ended, has them once more."""
    token = await signed_in(at, SID)
    session = await at.load(token)
    await at.manager.revoke(token[:20], "alice")
    session.authenticated()
    new = token_of(await at.commit(session))
    assert new[:20] != token[:20]
    assert await names(at, new) == ["sid=s-1"]


async def test_authenticated_does_not_outlive_the_alias(at: Setting) -> None:
    """Where the alias was revoked meanwhile, the sign-in that would take it along is refused."""
    token = await signed_in(at, SID)
    session = await at.load(token)
    at.clock.advance(1)
    await at.manager.revoke_by("sid", "s-1")
    session.authenticated()
    with pytest.raises(StoreUnavailableError, match="alias"):
        await at.commit(session)
    assert await alive(at, token) == [False]


@pytest.mark.parametrize(
    ("aliases", "left"),
    [
        ({"sid": "s-2"}, ["sid=s-2"]),
        ({"sid": "s-1", "device": "d-1"}, ["sid=s-1", "device=d-1"]),
        ({}, []),
    ],
)
async def test_another_sign_in_of_the_user_replaces_them(
    at: Setting, aliases: dict[str, str], left: list[str]
) -> None:
    """The id stays the same; what isn't named any more doesn't end it, and what is does."""
    token = await signed_in(at, SID)
    at.clock.advance(1)
    new = await signed_in(at, aliases, token=token)
    assert new[:20] == token[:20]
    assert await names(at, new) == left
    if "s-1" not in aliases.values():
        assert await at.manager.revoke_by("sid", "s-1") == 0
    at.clock.advance(DUE)
    await visit(at, new)
    assert await alive(at, new) == [True]
    for last in [*aliases.items()][-1:]:
        assert await at.manager.revoke_by(*last) == 1
        assert await alive(at, new) == [False]


async def test_a_new_alias_that_was_revoked_meanwhile(at: Setting) -> None:
    """The sign-in is refused, and the session stays as it was."""
    token = await signed_in(at, SID)
    session = await at.load(token)
    at.clock.advance(1)
    await at.manager.revoke_by("sid", "s-2")
    session.sign_in("alice", aliases={"sid": "s-2"})
    with pytest.raises(StoreUnavailableError):
        await at.commit(session)
    assert await names(at, token) == ["sid=s-1"]


async def test_nobody_inherits_them(at: Setting) -> None:
    """Neither another user, nor what is left after a sign-out, nor the next sign-in."""
    token = await signed_in(at, SID)
    bobs = await signed_in(at, user="bob", token=token)
    assert await names(at, bobs) == []
    token = await signed_in(at, SID)
    session = await at.load(token)
    session["cart"] = 1
    session.sign_out()
    left = token_of(await at.commit(session))
    assert await names(at, left) == []
    assert await names(at, await signed_in(at, token=left)) == []
    assert await at.manager.revoke_by("sid", "s-1") == 0


async def test_the_last_sign_in_of_a_request_counts(at: Setting) -> None:
    """Another user's sign-in, a sign-out and `clear()` drop what was named before."""
    for act in ("bob", "out", "clear", "again"):
        session = await at.load(None)
        session.sign_in("alice", aliases=SID)
        match act:
            case "bob":
                session.sign_in("bob")
            case "out":
                session.sign_out()
                session["user_id"] = "bob"
            case "clear":
                session.clear()
                session.sign_in("alice")
            case _:
                session.sign_in("alice")  # it says nothing of aliases
        token = token_of(await at.commit(session))
        assert await names(at, token) == (["sid=s-1"] if act == "again" else [])


def in_then_another(session: Session) -> None:
    session.sign_in("bob", aliases=SID)
    session["user_id"] = "carol"


def in_then_another_proves(session: Session) -> None:
    in_then_another(session)
    session.authenticated()


def in_then_another_signs_in(session: Session) -> None:
    in_then_another(session)
    session.sign_in("carol")


def in_then_the_first_again(session: Session) -> None:
    session.sign_in("bob", aliases=SID)
    session["user_id"] = "alice"


def in_then_another_and_back(session: Session) -> None:
    in_then_another(session)
    session["user_id"] = "bob"


def in_then_proved(session: Session) -> None:
    session.sign_in("bob", aliases=SID)
    session.authenticated(methods=["otp"])


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("act", "left"),
    [
        (in_then_another, []),
        (in_then_another_proves, []),
        (in_then_another_signs_in, []),
        (in_then_the_first_again, ["device=d-1"]),
        (in_then_another_and_back, ["sid=s-1"]),
        (in_then_proved, ["sid=s-1"]),
    ],
)
async def test_they_are_of_whom_they_were_named_for(
    at: Setting, act: Callable[[Session], None], left: list[str], saved: bool
) -> None:
    """Whoever takes the place of the user who signed in can't be ended by that user's aliases."""
    session = await at.load(await signed_in(at, {"device": "d-1"}))
    act(session)
    if saved:
        await session.save()
    assert await names(at, token_of(await at.commit(session))) == left
    assert await at.manager.revoke_by("sid", "s-1") == left.count("sid=s-1")


def test_what_was_put_aside_is_still_its_users() -> None:
    """A task of the request signs in another user while `save()` has put a sign-in aside."""
    aside = Wanted(authenticated=True, whose="bob", aliases=("sid\0s-1",))
    since = Wanted(authenticated=True, whose="carol")
    assert since.besides(aside).aliases is None
    assert NOTHING_WANTED.besides(aside) == aside
    again = Wanted(authenticated=True, whose="bob", methods=("otp",))
    assert again.besides(aside).aliases == aside.aliases


@pytest.mark.parametrize("before", [None, "alice", "bob"])
async def test_a_dotted_path(before: str | None) -> None:
    """Whoever signs in under one has the aliases and the methods that were given."""
    at = Setting(principal="user.id")
    token = await at.begin({"cart": 1} if before is None else {"user": {"id": before}})
    session = await at.load(token)
    session.sign_in("alice", methods=["pwd"], aliases=SID)
    token = token_of(await at.commit(session))
    assert (await at.load(token)).authentication_methods == ("pwd",)
    assert await names(at, token) == ["sid=s-1"]
    assert await at.manager.revoke_by("sid", "s-1") == 1


async def test_saved_before_the_response(at: Setting) -> None:
    """`save()` leaves the sign-in, and so its aliases, to the response."""
    session = await at.load(None)
    session.sign_in("alice", aliases=SID)
    await session.save()
    assert await names(at, token_of(await at.commit(session))) == ["sid=s-1"]


async def test_a_failed_response_signs_nobody_in(at: Setting) -> None:
    """From status 400 on no alias is entered."""
    session = await at.load(None)
    session.sign_in("alice", aliases=SID)
    answer = await at.commit(session, 400)
    assert answer.outcome is not Outcome.GAIN
    assert at.store.asked == []


# -- what is left in the store


async def test_an_end_leaves_nothing_in_the_aliases_index(at: Setting) -> None:
    """A sign-out, a switch and `clear()` remove the entry, and with the last one the index."""
    for act in ("out", "switch", "clear"):
        token = await signed_in(at, SID)
        session = await at.load(token)
        match act:
            case "out":
                session.sign_out()
            case "switch":
                session.sign_in("bob")
            case _:
                session.clear()
        await at.commit(session)
        assert await at.store.entries(backend_of(at.manager).aliases.name("sid\0s-1")) == (0, [])


async def test_a_sign_out_holds_though_the_alias_stays(
    at: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """What is left of it in the alias' index does no harm, so it is no error."""
    token = await signed_in(at, SID)
    session = await at.load(token)
    session.sign_out()
    at.store.failing.add("remove")
    await at.commit(session)
    at.store.failing.clear()
    assert "an alias still names a session" in caplog.text
    assert await alive(at, token) == [False]
    assert await at.manager.revoke_by("sid", "s-1") == 0


async def test_without_aliases_nothing_is_asked(at: Setting) -> None:
    """A session without aliases costs no further command."""
    token = await signed_in(at)
    at.clock.advance(DUE)
    await visit(at, token)
    session = await at.load(token)
    session.sign_out()
    await at.commit(session)
    assert at.store.asked == ["enter", "commit", "touch", "commit", "commit", "mark"]


async def test_a_value_is_nowhere_in_clear(at: Setting) -> None:
    """Neither in the record nor in an event; and its index has no principal's name."""
    secret = "a-provider's-sid"
    token = await signed_in(at, {"sid": secret})
    await at.manager.revoke_by("sid", secret)
    assert not [sealed for sealed in at.store.given if secret.encode() in sealed]
    assert is_record(at.store.given[0])
    assert secret not in repr(at.events)
    assert await alive(at, token) == [False]
    key = SecretKey(KEY)
    assert key.alias("sid\0" + secret) != key.index("sid\0" + secret)


# -- what is no alias


@pytest.mark.parametrize(
    "aliases",
    ["sid", {"Sid": "1"}, {"": "1"}, {"s-id": "1"}, {"s" * 33: "1"}, {1: "1"}, {"sid\n": "1"},
     {"sid": ""}, {"sid": None}, {"sid": 7}, {"sid": b"1"}, {"sid": "ü" * 257},
     {"sid": "\ud800"}, {f"n{n}": "1" for n in range(5)}],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_alias_is_refused(at: Setting, aliases: Any) -> None:
    """By `ConfigurationError`, before anything changes, and without the value."""
    session = await at.load(None)
    with pytest.raises(ConfigurationError, match="alias"):
        session.sign_in("alice", aliases=aliases)
    assert dict(session) == {}
    pairs: list[tuple[Any, Any]] = [] if aliases == "sid" else list(aliases.items())
    for name, value in pairs if len(pairs) == 1 else ():
        with pytest.raises(ConfigurationError, match="alias") as caught:
            await at.manager.revoke_by(name, value)
        assert len(str(caught.value)) < 200
    assert at.store.asked == []


@pytest.mark.parametrize("value", ["", "x" * 513, "ü" * 257, "\ud800", None, 7, ["s-1"], {}])
async def test_a_value_from_outside_can_be_answered(at: Setting, value: Any) -> None:
    """It is a `ValueError` of its own, for a 400. A wrong name is the application's mistake."""
    session = await at.load(None)
    with pytest.raises(AliasError) as caught:
        session.sign_in("alice", aliases={"sid": value})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ConfigurationError)
    with pytest.raises(AliasError):
        await at.manager.revoke_by("sid", value)
    assert (dict(session), at.store.asked) == ({}, [])
    with pytest.raises(ConfigurationError) as wrong:
        await at.manager.revoke_by("s-id", "s-1")
    assert not isinstance(wrong.value, AliasError)


async def test_the_longest_alias(at: Setting) -> None:
    """32 characters of a name, and 512 bytes of any text, four times."""
    aliases = {f"{n}" + "_" * 31: "\0" + "ü" * 255 + "x" for n in range(4)}
    token = await signed_in(at, aliases)
    assert await at.manager.revoke_by(*next(reversed(aliases.items()))) == 1
    assert await alive(at, token) == [False]

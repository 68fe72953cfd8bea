"""How somebody signed in: `sign_in(methods=…)`, `authenticated(methods=…)`, and what keeps them."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import pytest

from redis_sessions import ConfigurationError, Session
from redis_sessions.session.principal import PrincipalOption
from redis_sessions.session.record import Descriptor
from redis_sessions.session.session import state_of
from redis_sessions.session.state import NOTHING_WANTED, Wanted
from tests.unit.setting import DAY, DUE, Setting, count, token_of


class Method(enum.StrEnum):
    OTP = "otp"


def code_then_out(session: Session) -> None:
    session.authenticated(methods=["otp"])
    session.sign_out()


def in_then_cleared(session: Session) -> None:
    session.sign_in("bob", methods=["pwd"])
    session.clear()
    session["a"] = 1


def cleared_then_in(session: Session) -> None:
    session.clear()
    session.sign_in("bob", methods=["pwd"])


def code_then_another(session: Session) -> None:
    session.authenticated(methods=["otp"])
    session["user_id"] = "bob"


def another_then_code(session: Session) -> None:
    session["user_id"] = "bob"
    session.authenticated(methods=["otp"])


def in_then_another(session: Session) -> None:
    session.sign_in("bob", methods=["pwd"])
    session["user_id"] = "carol"


def code_of_another_then_back(session: Session) -> None:
    another_then_code(session)
    session["user_id"] = "alice"


Act = Callable[[Session], object]

PROOFS: Final[dict[str, tuple[Act, tuple[str, ...]]]] = {
    "a code": (lambda s: s.authenticated(methods=["otp"]), ("otp",)),
    "a code besides": (
        lambda s: s.authenticated(methods=[*s.authentication_methods, "otp"]),
        ("pwd", "otp"),
    ),
    "nothing said": (lambda s: s.authenticated(), ()),
    "again by a key": (lambda s: s.sign_in("alice", methods=["hwk", "user"]), ("hwk", "user")),
    "again, nothing said": (lambda s: s.sign_in("alice"), ()),
    "another": (lambda s: s.sign_in("bob"), ()),
    "another by sms": (lambda s: s.sign_in("bob", methods=["sms"]), ("sms",)),
    "another by the key": (lambda s: s.update(user_id="bob"), ()),
    "a code, then another": (code_then_another, ()),
    "another, then a code": (another_then_code, ("otp",)),
    "in, then another": (in_then_another, ()),
    "another's code": (code_of_another_then_back, ()),
    "out": (lambda s: s.sign_out(), ()),
    "a code, then out": (code_then_out, ()),
    "cleared": (in_then_cleared, ()),
    "cleared, then another": (cleared_then_in, ("pwd",)),
}
PENDING: Final[dict[str, Act]] = {
    "another user": lambda s: s.sign_in("bob"),
    "the same user": lambda s: s.sign_in("alice", methods=["otp"]),
    "authenticated": lambda s: s.authenticated(methods=["otp"]),
    "clear": lambda s: s.clear(),
}


async def signed_in(at: Setting, *methods: str) -> str:
    """The token of Alice, who signed in by these methods."""
    session = await at.load(None)
    session.sign_in("alice", methods=methods)
    return token_of(await at.commit(session))


async def test_a_sign_in_notes_its_methods(at: Setting) -> None:
    """They are there from the next request on, each once and in their order."""
    session = await at.load(await signed_in(at, "pwd", Method.OTP, "pwd"))
    assert session.authentication_methods == ("pwd", "otp")
    assert [type(method) for method in session.authentication_methods] == [str, str]


async def test_without_methods_there_are_none(at: Setting) -> None:
    """Nor if nobody is signed in."""
    for token in (await signed_in(at), await at.begin({"cart": 1}), None):
        assert (await at.load(token)).authentication_methods == ()


@pytest.mark.parametrize(
    "methods",
    ["pwd", Method.OTP, b"pwd", [""], ["a b"], ['a"'], ["a\\"], ["é"], ["a\n"], ["a" * 65], [1],
     [None], [["a"]], None, 1, [f"m{n}" for n in range(9)]],
    ids=repr,
)  # fmt: skip
async def test_what_is_no_name_is_refused(at: Setting, methods: Any) -> None:
    """By `ConfigurationError`, before anything changes."""
    session = await at.load(None)
    with pytest.raises(ConfigurationError, match="methods="):
        session.sign_in("alice", methods=methods)
    with pytest.raises(ConfigurationError, match="methods="):
        session.authenticated(methods=methods)
    assert dict(session) == {}


async def test_names_of_providers_are_taken(at: Setting) -> None:
    """A registry's, an application's own, or a URN."""
    names = ("pwd", "x_push", "a" * 64, "urn:example:amr:card", "http://example.com/claims/mfa")
    assert (await at.load(await signed_in(at, *names))).authentication_methods == names


def test_wishes_that_cross() -> None:
    """Methods go with the authentication that they belong to, also where tasks ask meanwhile."""
    pwd = Wanted(authenticated=True, methods=("pwd",), aliases=("sid\0x",))
    otp = Wanted(authenticated=True, methods=("otp",))
    assert pwd.without(Wanted(authenticated=True, methods=("pwd",), aliases=("sid\0x",))) is (
        NOTHING_WANTED
    )
    assert otp.without(pwd) == otp
    assert otp.besides(pwd) == Wanted(authenticated=True, methods=("otp",), aliases=("sid\0x",))
    assert Wanted(rotate=True).besides(pwd) == Wanted(
        rotate=True, authenticated=True, methods=("pwd",), aliases=("sid\0x",)
    )
    later, rest = Wanted(
        authenticated=True, methods=("pwd",), aliases=("sid\0x",), modified=True
    ).deferred()
    assert (later, rest) == (pwd, Wanted(modified=True))


@pytest.mark.parametrize("act", PENDING.values(), ids=PENDING)
async def test_until_the_response_there_are_none(at: Setting, act: Act) -> None:
    """Nobody takes the methods of one user, or of an earlier proof, for those of the next."""
    session = await at.load(await signed_in(at, "pwd"))
    act(session)
    assert session.authentication_methods == ()


# -- what keeps them, and what doesn't


async def later(at: Setting, session: Session) -> None:
    at.clock.advance(DUE)


async def changed_later(at: Setting, session: Session) -> None:
    at.clock.advance(DUE)
    session["cart"] = 1


async def saved(at: Setting, session: Session) -> None:
    session["cart"] = 1
    await session.save()


async def updated(at: Setting, session: Session) -> None:
    await at.manager.update(session, count)


async def rotated(at: Setting, session: Session) -> None:
    session.rotate()


async def remembered(at: Setting, session: Session) -> None:
    session.expire_in(30 * DAY)


@pytest.mark.parametrize("act", [later, changed_later, saved, updated, rotated, remembered])
async def test_what_keeps_them(
    at: Setting, act: Callable[[Setting, Session], Awaitable[None]]
) -> None:
    """Whatever is stored under the same sign-in has its methods."""
    session = await at.load(await signed_in(at, "pwd", "otp"))
    await act(at, session)
    await at.commit(session)
    stored = state_of(session).stored
    assert stored is not None
    session = await at.load(stored.token.value)
    assert session.principal == "alice"
    assert session.authentication_methods == ("pwd", "otp")


async def test_a_conflict_keeps_them(at: Setting) -> None:
    """Two requests change other keys, and one of them proves more: both are in the session."""
    token = await signed_in(at, "pwd")
    changing, proving = await at.load(token), await at.load(token)
    changing["cart"] = 1
    await at.commit(changing)
    proving["seen"] = 1
    proving.authenticated(methods=["otp"])
    session = await at.load(token_of(await at.commit(proving)))
    assert session.authentication_methods == ("otp",)
    assert session == {"user_id": "alice", "cart": 1, "seen": 1}


@pytest.mark.parametrize(("again", "methods"), PROOFS.values(), ids=PROOFS)
async def test_the_latest_proof_replaces_them(
    at: Setting, again: Act, methods: tuple[str, ...]
) -> None:
    """They belong to `authenticated_at`: no earlier method counts as proved just now."""
    session = await at.load(await signed_in(at, "pwd"))
    session["cart"] = 1
    again(session)
    answer = await at.commit(session)
    assert answer.token is not None
    session = await at.load(answer.token.value)
    assert session.authentication_methods == methods
    assert bool(session.principal) == (session.authenticated_at is not None)


def user_of(data: Mapping[str, Any]) -> str | None:
    return data["user"]["id"] if "user" in data else None


@pytest.mark.parametrize("principal", ["user.id", user_of])
@pytest.mark.parametrize(("whose", "methods"), [("alice", ("otp",)), ("bob", ())])
async def test_a_proof_while_the_data_cannot_be_encoded(
    principal: PrincipalOption, whose: str, methods: tuple[str, ...]
) -> None:
    """It counts for the user who was signed in, and for nobody who is assigned later."""
    at = Setting(principal=principal)
    session = await at.load(await at.begin({"user": {"id": "alice"}}))
    session["form"] = object()
    session.authenticated(methods=["otp"])
    del session["form"]
    session["user"] = {"id": whose}
    session = await at.load(token_of(await at.commit(session)))
    assert (session.principal, session.authentication_methods) == (whose, methods)


async def test_a_failed_proof_changes_nothing(at: Setting) -> None:
    """From status 400 on nobody has proved anything."""
    token = await signed_in(at, "pwd")
    session = await at.load(token)
    session.authenticated(methods=["otp"])
    await at.commit(session, status=401)
    assert (await at.load(token)).authentication_methods == ("pwd",)


async def test_a_proof_in_place_of_an_ended_session(at: Setting) -> None:
    """Whoever proves who they are while their session is rotated elsewhere gets their methods."""
    token = await signed_in(at, "pwd")
    session, other = await at.load(token), await at.load(token)
    other.rotate()
    await at.commit(other)
    session.authenticated(methods=["otp"])
    answer = await at.commit(session)
    assert (await at.load(token_of(answer))).authentication_methods == ("otp",)


async def test_saving_before_the_response_keeps_the_wish(at: Setting) -> None:
    """`save()` stores the data; the response carries the token, and the methods come with it."""
    session = await at.load(await signed_in(at, "pwd"))
    session["cart"] = 1
    session.authenticated(methods=["otp"])
    await session.save()
    assert session.authentication_methods == ()
    answer = await at.commit(session)
    assert (await at.load(token_of(answer))).authentication_methods == ("otp",)


@pytest.mark.parametrize(("methods", "is_met"), [([], True), (["otp"], False)])
async def test_a_proof_while_another_signs_in(
    at: Setting, methods: list[str], is_met: bool
) -> None:
    """The sign-in that is under way meets it, unless it says how, which that one doesn't store."""
    session = await at.load(None)
    session.sign_in("bob", methods=methods)
    session["user_id"] = "carol"

    async def meanwhile() -> None:
        session.authenticated(methods=methods)

    at.store.meanwhile = meanwhile
    await at.commit(session)
    assert (state_of(session).wanted is NOTHING_WANTED) is is_met


# -- lists of devices


async def test_a_list_shows_them(at: Setting) -> None:
    """`SessionInfo.methods`: from the sign-in on, after another proof, and after a touch.

    Who takes the place of the user who proved something hasn't proved it.
    """
    agent = [(b"user-agent", b"Firefox")]
    token = (await at.request(lambda s: s.sign_in("a", methods=["pwd"]), headers=agent)).token.value
    shown = [(await at.manager.sessions_of("a"))[0].methods]
    again = await at.request(lambda s: s.authenticated(methods=["otp"]), token, headers=agent)
    shown.append((await at.manager.sessions_of("a"))[0].methods)
    at.clock.advance(DUE)
    await at.request(lambda s: None, again.token.value, headers=agent)
    (info,) = await at.manager.sessions_of("a")
    assert [*shown, info.methods] == [("pwd",), ("otp",), ("otp",)]
    assert info.user_agent == "Firefox"
    await at.request(code_then_another, again.token.value, headers=agent)
    (info,) = await at.manager.sessions_of("bob")
    assert info.methods == ()


async def test_a_list_catches_up(at: Setting) -> None:
    """Where the index failed after the record, the next touch tells it."""
    agent = [(b"user-agent", b"Firefox")]
    token = (await at.request(lambda s: s.sign_in("a", methods=["pwd"]), headers=agent)).token.value
    at.store.failing.add("authenticated")
    again = await at.request(lambda s: s.authenticated(methods=["otp"]), token, headers=agent)
    at.store.failing.clear()
    shown = [(await at.manager.sessions_of("a"))[0].methods]
    at.clock.advance(DUE)
    await at.request(lambda s: None, again.token.value, headers=agent)
    shown.append((await at.manager.sessions_of("a"))[0].methods)
    assert shown == [("pwd",), ("otp",)]


def test_a_descriptor_of_an_older_version_opens() -> None:
    """It has no methods; and an older version ignores them."""
    plain = msgspec.msgpack.encode([1, "127.0.0.1", "Firefox"])
    assert msgspec.msgpack.decode(plain, type=Descriptor).methods == ()

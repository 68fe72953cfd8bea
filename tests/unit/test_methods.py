"""How somebody signed in: `sign_in(methods=…)`, `authenticated(methods=…)`, and what keeps them."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from redis_sessions import ConfigurationError
from redis_sessions.session.state import NOTHING_WANTED, Wanted
from tests.unit.setting import Setting, token_of


class Method(enum.StrEnum):
    OTP = "otp"


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
    ["pwd", b"pwd", [""], ["a b"], ['a"'], ["a\\"], ["é"], ["a\n"], ["a" * 65], [1], [None],
     [f"m{n}" for n in range(9)]],
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

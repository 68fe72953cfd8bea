"""`clear_site_data=`: which responses have the browser clear what it keeps of a session."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from inspect import isawaitable
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    ConfigurationError,
    CookieTransport,
    HeaderTransport,
    Session,
    SessionMiddleware,
    get_session,
)
from redis_sessions.http.options import SiteData
from tests.support.asgi import COOKIE, Reply, ask, cookie
from tests.unit.aliases.aliased import SID, signed_in
from tests.unit.setting import ALICE, START, Setting

Act = Callable[[Setting, Session], object]
WANTED: Sequence[SiteData] = ("cache", "storage")
SENT = [b'"cache", "storage"']


async def visit(
    at: Setting,
    token: str | None,
    act: Act,
    *,
    status: int = 200,
    header: str | None = None,
    **options: Any,
) -> Reply:
    """A request whose handler does this. `header`: the token is in there, instead of a cookie."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        done = act(at, get_session(HTTPConnection(scope)))
        if isawaitable(done):
            await done
        await send({**START, "status": status})
        await send({"type": "http.response.body", "body": b""})

    headers = [] if token is None else [(b"cookie", cookie(token))]
    if header is not None:
        headers = [(header.encode(), (token or "").encode())]
    options = {"clear_site_data": WANTED, **options}
    return (await ask(SessionMiddleware(app, manager=at.manager, **options), headers)).checked()


def cleared(reply: Reply) -> list[bytes]:
    return [value for name, value in reply.headers if name == b"clear-site-data"]


def clear_and(**data: Any) -> Act:
    def act(at: Setting, session: Session) -> None:
        session.clear()
        session.update(data)

    return act


async def revoke(at: Setting, session: Session) -> None:
    assert await at.manager.revoke(str(session.id), "alice")


async def revoke_all(at: Setting, session: Session) -> None:
    assert await at.manager.revoke_all("alice") == 1


async def revoke_others(at: Setting, session: Session) -> None:
    assert await at.manager.revoke_all("alice", keep=session.id) == 0


async def change_password(at: Setting, session: Session) -> None:
    await revoke_all(at, session)
    session.sign_in("alice")


ENDS: dict[str, Act] = {
    "sign_out": lambda _, session: session.sign_out(),
    "sign_out that leaves nothing": lambda _, session: (session.pop("n"), session.sign_out()),
    "the principal's key is removed": lambda _, session: session.pop("user_id"),
    "clear": clear_and(),
    "clear, and data after it": clear_and(n=2),
    "clear, and another signs in": clear_and(user_id="bob"),
    "another signs in": lambda _, session: session.sign_in("bob"),
    "its own session is revoked": revoke,
    "all of its user's sessions are revoked": revoke_all,
}

GOES_ON: dict[str, Act] = {
    "nothing": lambda _, session: session.get("n"),
    "a change": lambda _, session: session.update(n=2),
    "rotate": lambda _, session: session.rotate(),
    "authenticated": lambda _, session: session.authenticated(),
    "the same user signs in": lambda _, session: session.sign_in("alice"),
    "clear, and the same user signs in": clear_and(user_id="alice"),
    "the user's other sessions are revoked": revoke_others,
    "all are revoked, and the same user signs in": change_password,
}


@pytest.mark.standard(41, "ASVS 14.3.1")
@pytest.mark.parametrize("act", ENDS.values(), ids=ENDS)
async def test_a_response_that_ends_a_session(act: Act, at: Setting) -> None:
    """Whoever signs out, is switched or revokes this session leaves nothing in the browser."""
    reply = await visit(at, await at.begin({**ALICE, "n": 1}), act)
    assert cleared(reply) == SENT
    assert reply.cookies  # a new token, or none any more


async def test_a_request_that_ends_its_own_session_by_an_alias(at: Setting) -> None:
    """So does `revoke_by()`."""

    async def revoke_by(at: Setting, session: Session) -> None:
        assert await at.manager.revoke_by("sid", SID["sid"]) == 1

    assert cleared(await visit(at, await signed_in(at, SID), revoke_by)) == SENT


@pytest.mark.parametrize("act", GOES_ON.values(), ids=GOES_ON)
async def test_a_response_after_which_the_user_goes_on(act: Act, at: Setting) -> None:
    """A new token alone clears nothing."""
    assert cleared(await visit(at, await at.begin({**ALICE, "n": 1}), act)) == []


VISITORS: list[tuple[Act, list[bytes]]] = [
    (clear_and(), SENT),
    (lambda _, session: session.sign_in("alice"), []),
    (clear_and(user_id="alice"), []),
]


@pytest.mark.parametrize(("act", "told"), VISITORS, ids=["clear", "sign in", "clear and sign in"])
async def test_a_visitor(act: Act, told: list[bytes], at: Setting) -> None:
    """Nobody was signed in: a sign-in clears nothing, and what ends has ended."""
    assert cleared(await visit(at, await at.begin({"n": 1}), act)) == told


@pytest.mark.parametrize("given", [["storage", "cache"], {"cache", "storage"}], ids=["list", "set"])
async def test_what_is_taken(given: Collection[SiteData], at: Setting) -> None:
    """A list or a set is as good as a tuple, in any order."""
    reply = await visit(at, await at.begin(ALICE), clear_and(), clear_site_data=given)
    assert cleared(reply) == SENT


async def test_where_nothing_ends(at: Setting) -> None:
    """Without a session, and after another request has ended it, there is nothing to clear."""
    token = await at.begin(ALICE)

    async def ended_meanwhile(at: Setting, session: Session) -> None:
        await at.manager.revoke_all("alice")  # counts as this request's own
        session.clear()

    assert cleared(await visit(at, None, clear_and())) == []
    assert cleared(await visit(at, "A" * 64, clear_and())) == []
    assert cleared(await visit(at, token, ended_meanwhile)) == SENT
    assert cleared(await visit(at, token, clear_and())) == []


@pytest.mark.parametrize("status", [303, 400, 500])
async def test_whatever_the_status_is(status: int, at: Setting) -> None:
    """A sign-out counts in a response that fails, too."""
    reply = await visit(at, await at.begin(ALICE), clear_and(), status=status)
    assert (reply.status, cleared(reply)) == (status, SENT)


async def test_only_browsers_are_told(at: Setting) -> None:
    """A client with the token in a header is told nothing, and nobody is by default."""
    transports = [CookieTransport(COOKIE), HeaderTransport("X-Session")]
    for header, told in (("X-Session", []), (None, SENT)):
        token = await at.begin(ALICE)
        reply = await visit(at, token, clear_and(), header=header, transport=transports)
        assert cleared(reply) == told
    token = await at.begin(ALICE)
    assert cleared(await visit(at, token, clear_and(), clear_site_data=())) == []


async def test_the_inner_one_of_two_tells_nobody(at: Setting) -> None:
    """The outer middleware answers. So what only the inner one says is refused."""
    token = await at.begin(ALICE)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    inner = SessionMiddleware(app, manager=at.manager, clear_site_data=WANTED)
    reply = await ask(SessionMiddleware(inner, manager=at.manager), [(b"cookie", cookie(token))])
    assert isinstance(reply.error, ConfigurationError)
    assert "clear_site_data= of the inner one of two" in str(reply.error)

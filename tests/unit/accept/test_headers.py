"""Tokens in a header beside another library's cookie, whose session no script is given."""

from __future__ import annotations

from typing import Any, Final

import pytest

from redis_sessions import CookieTransport, HeaderTransport
from tests.support.asgi import COOKIE, Header
from tests.unit.accept.elsewhere import THEIRS, Elsewhere, Place, names_in, token_in
from tests.unit.accept.together import visited

NAME: Final = b"x-session-token"
ALICES: Final = {"user_id": "alice", "cart": ["tea"]}
ELSEWHERE: Final[list[Header]] = [
    (b"sec-fetch-site", b"cross-site"),
    (b"origin", b"https://elsewhere.example"),
]


def both(source: Elsewhere, *, header_first: bool = False) -> Place:
    """A place whose clients may have the token in a cookie or in a header."""
    transports: list[Any] = [CookieTransport(), HeaderTransport()]
    return Place(source, site={"transport": transports[::-1] if header_first else transports})


@pytest.mark.parametrize("value", [b"", b"nonsense", b"A" * 64])
@pytest.mark.parametrize("header_first", [True, False])
async def test_who_answers_by_a_header_is_given_nothing(value: bytes, header_first: bool) -> None:
    """A script adds the header to a request that has the other cookie. It doesn't get a token."""
    at = both(Elsewhere(), header_first=header_first)
    reply = (await at.visit(headers=[(NAME, value)])).checked()
    assert reply.seen == {}
    assert {name for name, _ in reply.headers}.isdisjoint({NAME, b"set-cookie"})
    assert (await at.visit()).seen == ALICES


@pytest.mark.parametrize("header_first", [True, False])
async def test_a_browser_gets_a_cookie(header_first: bool) -> None:
    """Also if the first transport is a header, which a browser would lose."""
    at = both(Elsewhere(), header_first=header_first)
    reply = (await at.visit()).checked()
    assert names_in(reply) == [THEIRS, COOKIE]
    assert NAME not in dict(reply.headers)


async def test_a_client_without_either_gets_a_header() -> None:
    """A first transport that is a header answers all others, as without accept=."""
    at = both(Elsewhere(), header_first=True)
    reply = (await at.visit(lambda s: s.sign_in("bob"), theirs=None)).checked()
    assert NAME in dict(reply.headers)


@pytest.mark.parametrize("fields", [{}, {"method": "POST", "headers": ELSEWHERE}])
async def test_a_token_in_a_header_is_followed(fields: dict[str, Any]) -> None:
    """Who signed out there is signed out here, also by a request that another origin caused."""
    source = Elsewhere(follow=True)
    at = both(source)
    token = token_in(await at.visit())
    sent = [(NAME, token.encode()), *fields.pop("headers", [])]
    assert (await at.visit(theirs=None, headers=sent, **fields)).seen == ALICES
    del source.sessions["s1"]
    assert (await at.visit(theirs=None, headers=sent, **fields)).checked().seen == {}
    assert await at.manager.sessions_of("alice") == []


async def test_a_visitor_with_a_header_begins_nothing_there() -> None:
    """No session begins at a source that shares them, whose cookie would replace the browser's."""
    at, source, _ = await visited(s1=dict(ALICES))
    at.site = {"transport": [CookieTransport(), HeaderTransport()]}
    reply = await at.visit(lambda s: s.update(cart=["milk"]), headers=[(NAME, b"")])
    assert (reply.cookies, source.sessions) == ([], {"s1": ALICES})
    assert await at.data(dict(reply.headers)[NAME].decode()) == {"cart": ["milk"]}

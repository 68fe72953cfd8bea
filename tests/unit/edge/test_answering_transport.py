"""Of several transports the one that brought the token answers, and the first where none did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest

from redis_sessions import CookieTransport, HeaderTransport, Session
from tests.unit.edge.edge import Edge, Headers, responding, setting

HEADER: Final = b"x-session-token"
STALE: Final = "A" * 64

COOKIES, HEADERS = CookieTransport(), HeaderTransport()


def by_cookie(token: str) -> tuple[bytes, bytes]:
    return b"cookie", b"__Host-session=" + token.encode()


def by_header(token: str) -> tuple[bytes, bytes]:
    return HEADER, token.encode()


async def serve(
    at: Edge, *headers: tuple[bytes, bytes], act: Any = None, transport: Sequence[Any] = ()
) -> tuple[bool, bool]:
    """Whether the answer came by cookie, and whether by header."""
    app = responding(act or setting(user_id="alice"))
    given: Headers = headers
    await at.serve(app, headers=given, transport=transport or [COOKIES, HEADERS])
    return bool(at.header("set-cookie")), bool(at.header(HEADER.decode()))


@pytest.mark.parametrize(
    ("transport", "answer"),
    [([COOKIES, HEADERS], (True, False)), ([HEADERS, COOKIES], (False, True))],
    ids=["cookie first", "header first"],
)
async def test_no_token(at: Edge, transport: Any, answer: tuple[bool, bool]) -> None:
    """The first one answers."""
    assert await serve(at, transport=transport) == answer


@pytest.mark.parametrize(
    "transport", [[COOKIES, HEADERS], [HEADERS, COOKIES]], ids=["cookie first", "header first"]
)
async def test_a_token(at: Edge, transport: Any) -> None:
    """The one that brought it, wherever it stands; whether it opens or not."""
    for token in (await at.begin({"x": 1}), STALE, "malformed"):
        assert await serve(at, by_cookie(token), transport=transport) == (True, False)
        assert await serve(at, by_header(token), transport=transport) == (False, True)


async def test_two_tokens(at: Edge) -> None:
    """The one whose token opened the session."""
    token = await at.begin({"x": 1})
    assert await serve(at, by_cookie(STALE), by_header(token)) == (False, True)
    token = await at.begin({"x": 1})
    assert await serve(at, by_cookie(token), by_header(STALE)) == (True, False)


async def test_an_empty_header(at: Edge) -> None:
    """It brings no token, but says that its client wants to be answered so."""
    assert await serve(at, by_header("")) == (False, True)
    assert at.reported("rejected") == []


async def test_an_end(at: Edge) -> None:
    """The cookie is expired, or the header is empty, and never both."""
    clear = Session.clear
    assert await serve(at, by_cookie(await at.begin({"x": 1})), act=clear) == (True, False)
    assert at.token == "null"
    assert await serve(at, by_header(await at.begin({"x": 1})), act=clear) == (False, True)
    assert at.header(HEADER.decode()) == [""]


async def test_spaces_around_a_cookie(at: Edge) -> None:
    """They aren't part of its value."""
    token = await at.begin({"x": 1})
    await at.serve(responding(setting(x=2)), headers=[by_cookie(f" {token} ; other=1")])
    assert (at.token, await at.data(token)) == (None, {"x": 2})

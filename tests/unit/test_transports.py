"""Where the token travels: `Set-Cookie` as Starlette spells it, and reading it back."""

from __future__ import annotations

import itertools
from inspect import signature
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from redis_sessions import (
    ConfigurationError,
    CookieTransport,
    HeaderTransport,
    SessionMiddleware,
    generate_key,
)
from tests.support.asgi import ask

TOKEN = "A" * 64

# Starlette's takes `partitioned` since 1.7.
THEIRS = signature(StarletteSessionMiddleware).parameters

SETTINGS: list[dict[str, Any]] = [
    {
        "session_cookie": "session",
        "path": path,
        "same_site": same_site,
        "https_only": https_only,
        "domain": domain,
        "partitioned": partitioned,
        "max_age": max_age,
    }
    for path, same_site, https_only, domain, partitioned, max_age in itertools.product(
        ["/", "/app"],
        ["lax", "strict", "none"],
        [True, False],
        [None, "example.com"],
        [False, True],
        [14 * 24 * 3600, 60, None],
    )
    # what browsers refuse is refused here
    if https_only or not (partitioned or same_site == "none")
    if "partitioned" in THEIRS or not partitioned
]


async def write(request: Request) -> Response:
    request.session["n"] = 1
    return PlainTextResponse("ok")


async def clear(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("ok")


def application(middleware: Any, **options: Any) -> Starlette:
    return Starlette(
        routes=[Route("/write", write), Route("/clear", clear)],
        middleware=[Middleware(middleware, secret_key=generate_key(), **options)],
    )


async def both_cookies(app: ASGIApp) -> tuple[str, str]:
    """What an application sends when a session begins, and when it is cleared; without values."""
    ((_, begun),) = [h for h in (await ask(app, path="/write")).headers if h[0] == b"set-cookie"]
    pair, attributes = begun.split(b"; ", 1)
    reply = await ask(app, [(b"cookie", pair)], path="/clear")
    (ended,) = reply.cookies
    return f"{pair.split(b'=')[0].decode()}=…; {attributes.decode()}", ended


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: " ".join(map(str, s.values())))
async def test_set_cookie_is_starlettes(settings: dict[str, Any]) -> None:
    """For equal settings, but for the value, to the letter; and so is the one that expires it."""
    ours = application(SessionMiddleware, store="memory://", **settings)
    known = {name: value for name, value in settings.items() if name in THEIRS}
    theirs = application(StarletteSessionMiddleware, **known)

    assert await both_cookies(ours) == await both_cookies(theirs)


def attributes(transport: CookieTransport, max_age: int | None = 60) -> str:
    name, value = transport.send(TOKEN, max_age)
    assert name == b"set-cookie"
    return value.decode().split("; ", 1)[1]


@pytest.mark.standard(3)
@pytest.mark.standard(17, "ASVS 3.3.1", "ASVS 3.3.3")
@pytest.mark.standard(18, "ASVS 3.3.2")
@pytest.mark.standard(19, "ASVS 3.3.4")
def test_the_default_cookie() -> None:
    """`__Host-session`, Secure, HttpOnly, Lax, on the whole host and no other."""
    transport = CookieTransport()

    assert transport.send(TOKEN, 60) == (
        b"set-cookie",
        f"__Host-session={TOKEN}; path=/; Max-Age=60; httponly; samesite=lax; secure".encode(),
    )
    assert (transport.secure, transport.cross_site, transport.vary) == (True, False, "Cookie")
    assert (transport.ambient, HeaderTransport.ambient) == (True, False)
    assert transport.key == ("cookie", "__Host-session")
    assert "Max-Age" not in attributes(transport, None)


@pytest.mark.parametrize(
    "options", [{"path": "/app"}, {"domain": "example.com"}, {"https_only": False}], ids=repr
)
def test_the_name_where_the_prefix_does_not_hold(options: dict[str, Any]) -> None:
    """Plain `sid`: browsers would refuse `__Host-`."""
    assert CookieTransport(**options).name == "sid"


@pytest.mark.parametrize("name", ["session", "__Host-a", "__Secure-a", "a.b", "!#$%&'*+-.^_`|~0aA"])
def test_a_given_name_is_taken_verbatim(name: str) -> None:
    """Whatever RFC 9110 calls a token; and it is found in requests by that name alone."""
    transport = CookieTransport(name)

    assert transport.send(TOKEN, None)[1].startswith(f"{name}={TOKEN};".encode())
    for header in (f"{name}=x", f"a=b; {name}=x", f"a=b;{name}=x ; c=d"):
        assert read(transport, header) == ["x"]
    for header in (f"a{name}=x", f"{name}a=x", f"a={name}=x", name.replace(".", "x") + "y=x"):
        assert read(transport, header) == []


def read(transport: CookieTransport | HeaderTransport, *values: str) -> list[str]:
    name = b"cookie" if isinstance(transport, CookieTransport) else transport.name.lower().encode()
    return transport.read({"headers": [(name, value.encode("latin-1")) for value in values]})


@pytest.mark.standard(24)
def test_all_cookies_of_our_name_are_read() -> None:
    """In one header (HTTP/1.1) and in several (HTTP/2), in their order."""
    transport = CookieTransport("sid")

    assert read(transport, "sid=1; a=2; sid=3", "b=4", "sid=5;sid=") == ["1", "3", "5", ""]


@pytest.mark.parametrize("same_site", ["Lax", "LAX", "Strict", "None"])
def test_same_site_is_read_in_any_case(same_site: Any) -> None:
    """And written as Starlette writes it."""
    transport = CookieTransport(same_site=same_site)

    assert f"samesite={same_site.lower()};" in attributes(transport)
    assert transport.cross_site == (same_site == "None")


def test_a_header() -> None:
    """The same name in both directions; an empty value says that the session ended."""
    transport = HeaderTransport()

    assert transport.send(TOKEN, 60) == (b"x-session-token", TOKEN.encode())
    assert transport.expire() == (b"x-session-token", b"")
    assert read(transport, TOKEN, "x") == [TOKEN, "x"]
    assert transport.key == HeaderTransport("x-SESSION-token").key
    assert (transport.vary, transport.secure) == ("X-Session-Token", False)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\n", "é", "a=b;"], ids=repr)
def test_a_bad_header_name(name: str) -> None:
    """It is refused, with an example."""
    with pytest.raises(ConfigurationError, match="such as 'X-Session-Token'"):
        HeaderTransport(name)


def test_reprs_name_the_transport() -> None:
    """For error messages."""
    assert repr(CookieTransport("sid")) == "<CookieTransport sid>"
    assert repr(HeaderTransport()) == "<HeaderTransport X-Session-Token>"

"""Sessions for test clients: begin a test signed in, and look at what a request left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from redis_sessions.errors import ConfigurationError
from redis_sessions.http.transports import CookieTransport
from redis_sessions.lifecycle.manager import SessionManager

__all__ = [
    "browser_cookie",
    "get_session_data",
    "read_session",
    "set_session_data",
    "store_session",
]


class _Cookies(Protocol):
    def set(self, name: str, value: str, domain: str = "", path: str = "/") -> None: ...
    def get(self, name: str) -> str | None: ...


class _Url(Protocol):
    @property
    def host(self) -> str: ...


class Client(Protocol):
    """What is needed of a client: httpx's, and so Starlette's and FastAPI's TestClient."""

    @property
    def base_url(self) -> _Url: ...
    @property
    def cookies(self) -> Any: ...


async def store_session(manager: SessionManager, data: Mapping[str, Any]) -> str:
    """Store a new session with these data; its token, as a browser would hold it."""
    session = await manager.load()
    session.update(data)
    answer = await manager.commit(session)
    if answer.token is None:
        raise ConfigurationError("a session without data isn't stored: give it at least one key")
    return answer.token.value


async def read_session(manager: SessionManager, token: str | None) -> dict[str, Any]:
    """The data of the session that this token opens; empty if there is none."""
    return dict(await manager.load(token, check_binding=False))


def set_session_data(
    client: Client,
    manager: SessionManager,
    data: Mapping[str, Any],
    *,
    transport: CookieTransport | None = None,
) -> None:
    """Give a test client the cookie of a new session with these data; not inside a loop."""
    token = asyncio.run(store_session(manager, data))
    cookies: _Cookies = client.cookies
    cookies.set(_name(transport), token, domain=_domain(client.base_url.host))


def get_session_data(
    client: Client, manager: SessionManager, *, transport: CookieTransport | None = None
) -> dict[str, Any]:
    """The data of the session whose cookie a test client holds; not inside a loop."""
    cookies: _Cookies = client.cookies
    return asyncio.run(read_session(manager, cookies.get(_name(transport))))


def browser_cookie(token: str, url: str, *, transport: CookieTransport | None = None) -> Any:
    """The cookie of a session as Playwright takes it: `context.add_cookies([browser_cookie(…)])`.

    `token` is what `store_session` returns; `url` is the application's address. The dict has
    `name`, `value`, `domain`, `path`, `httpOnly`, `secure`, `sameSite`. It is typed as Any, since
    Playwright's own type isn't there without Playwright.
    """
    header = (transport or CookieTransport()).send(token, None)[1].decode()
    pair, *attributes = header.split("; ")
    name, _, value = pair.partition("=")
    given = {key: text for key, _, text in (each.partition("=") for each in attributes)}
    domain = given.get("domain", "").lstrip(".")
    return {
        "name": name,
        "value": value,
        # Not `url`: Playwright takes Secure from its scheme, and loopbacks are served over http.
        "domain": f".{domain}" if domain else urlsplit(url).hostname,
        "path": given["path"],
        "httpOnly": True,
        "secure": "secure" in given,
        "sameSite": given["samesite"].capitalize(),
    }


def _name(transport: CookieTransport | None) -> str:
    return (transport or CookieTransport()).name


def _domain(host: str) -> str:
    # The standard library's cookie jar calls a host without a dot so (RFC 2965).
    return host if "." in host else f"{host}.local"

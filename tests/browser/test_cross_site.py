"""Chromium causes each kind of request from another origin, and says who caused it.

The same server answers under several names. Names under `localhost` count as secure, so Chromium
sends Sec-Fetch-Site to them. To names under `test` it sends none over plain http, as older browsers
do everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from redis_sessions import MemoryStore, SessionMiddleware, generate_key, get_session
from tests.support.apps import serve
from tests.support.chromium import ARGUMENTS

NAMES: Final = {
    "secure": ("shop.a.localhost", "blog.a.localhost", "evil.b.localhost"),
    "plain": ("shop.a.test", "blog.a.test", "evil.b.test"),
}
"""The shop, a sibling on its site, and another site."""
METHODS: Final = ["GET", "POST", "PUT"]


class Seen(NamedTuple):
    """What the application saw of one request."""

    principal: str | None
    cookie: bool
    site: str | None
    origin: str | None


class Shop:
    """An application that notes what it sees of each request; other origins' scripts may use it."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self._changed = threading.Condition()
        routes = [
            Route("/page", self.page),
            Route("/in", self.sign_in),
            Route("/see", self.see, methods=METHODS),
            Route("/bounce", self.bounce, methods=["POST"]),
            WebSocketRoute("/see", self.see_socket),
        ]
        key, store = generate_key(), MemoryStore()
        self._apps = {
            same_site: Starlette(
                routes=routes,
                middleware=[
                    Middleware(
                        CORSMiddleware,
                        allow_origin_regex=".*",
                        allow_credentials=True,
                        allow_methods=["*"],
                    ),
                    Middleware(
                        SessionMiddleware,
                        store=store,
                        secret_key=key,
                        same_site=same_site,
                        https_only=same_site == "none",
                    ),
                ],
            )
            for same_site in ("lax", "none")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """With the most open cookie that the browser takes under this name."""
        host = dict(scope.get("headers", ())).get(b"host", b"")
        app = self._apps["none" if b".localhost:" in host else "lax"]
        await app(scope, receive, send)

    async def page(self, request: Request) -> Response:
        return HTMLResponse("<!doctype html><title>page</title>")

    async def sign_in(self, request: Request) -> Response:
        get_session(request).sign_in("alice")
        return HTMLResponse("<!doctype html><title>signed in</title>")

    async def bounce(self, request: Request) -> Response:
        return RedirectResponse(f"/see?{request.url.query}", 303)

    async def see(self, request: Request) -> Response:
        self.note(request)
        return HTMLResponse("<!doctype html><title>seen</title>")

    async def see_socket(self, socket: WebSocket) -> None:
        self.note(socket)
        await socket.accept()
        await socket.close()

    def note(self, connection: HTTPConnection) -> None:
        headers = connection.headers
        seen = Seen(
            get_session(connection).principal,
            "cookie" in headers,
            headers.get("sec-fetch-site"),
            headers.get("origin"),
        )
        with self._changed:
            self.seen[connection.query_params["case"]] = seen
            self._changed.notify_all()

    def wait_for(self, case: str) -> Seen:
        """What was seen of this request."""
        with self._changed:
            assert self._changed.wait_for(lambda: case in self.seen, 20), f"no request: {case}"
            return self.seen[case]


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = [*ARGUMENTS, "--host-resolver-rules=MAP * 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Shop, str]]:
    shop = Shop()
    with serve(shop) as address:
        yield shop, address.partition(":")[2]


FORM: Final = """{
    const form = document.createElement('form');
    form.method = 'post'; form.action = url; form.target = '_blank'; SETTING;
    form.innerHTML = '<input name=a value=1>';
    document.body.append(form); form.submit();
}"""
FRAMED: Final = FORM.replace(
    "SETTING",
    """
    const frame = document.createElement('iframe');
    frame.name = form.target = url; document.body.append(frame); SETTING
    """,
)
UNSAFE: Final = {
    "form": FORM.replace("SETTING", ""),
    "multipart form": FRAMED.replace("SETTING", "form.enctype = 'multipart/form-data'"),
    "text form": FRAMED.replace("SETTING", "form.enctype = 'text/plain'"),
    "form without a referrer": FORM.replace("SETTING", "form.rel = 'noreferrer'"),
    "form in a sandboxed frame": """{
        const frame = document.createElement('iframe');
        frame.sandbox = 'allow-scripts allow-forms';
        frame.srcdoc = `<form method=post action="${url}"></form>`
            + '<script>document.forms[0].submit()</' + 'script>';
        document.body.append(frame);
    }""",
    "fetch, no-cors": "fetch(url, {method: 'POST', mode: 'no-cors', credentials: 'include'})",
    "fetch, cors": "fetch(url, {method: 'POST', credentials: 'include'})",
    "fetch, preflight": "fetch(url, {method: 'PUT', credentials: 'include'})",
    "beacon": "navigator.sendBeacon(url, 'x')",
    "ping of a link": """{
        const link = document.createElement('a');
        link.href = '#here'; link.ping = url; document.body.append(link); link.click();
    }""",
    "WebSocket": "new WebSocket(url.replace('http:', 'ws:'))",
}
SAFE: Final = {
    "link": "window.open(url)",
    "image": "new Image().src = url",
    "form that is redirected": FORM.replace(
        "SETTING", "form.action = url.replace('see', 'bounce')"
    ),
}
CASES: Final = {**UNSAFE, **SAFE}
SCRIPT: Final = "".join(
    f"((url) => {{ {script} }})(see + encodeURIComponent({case!r}));\n"
    for case, script in CASES.items()
)


def cause_all(page: Page, shop: Shop, origin: str, target: str) -> dict[str, Seen]:
    """Have a page of this origin cause each kind of request to the target."""
    page.goto(f"{origin}/page")
    shop.seen.clear()
    page.evaluate(f"(see) => {{ {SCRIPT} }}", f"{target}/see?case=")
    return {case: shop.wait_for(case) for case in CASES}


def with_session(seen: dict[str, Seen]) -> set[str]:
    return {case for case, each in seen.items() if each.principal == "alice"}


def with_cookie(seen: dict[str, Seen]) -> set[str]:
    return {case for case, each in seen.items() if each.cookie}


@pytest.mark.parametrize("family", NAMES)
def test_each_kind_of_request(family: str, browser: Browser, served: tuple[Shop, str]) -> None:
    """From our own page it has the session. From another origin's, only what is safe has it."""
    shop, port = served
    own, sibling, evil = (f"http://{name}:{port}" for name in NAMES[family])
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{own}/in")
        ours, siblings, evils = (
            cause_all(page, shop, origin, own) for origin in (own, sibling, evil)
        )

    nobodys = {"form in a sandboxed frame"}
    if family == "plain":  # nobody can tell that a page without a referrer is ours
        nobodys.add("form without a referrer")
    assert with_session(ours) == set(CASES) - nobodys

    # The browser sends a Lax cookie along from a sibling: SameSite is no help there.
    assert with_cookie(siblings) >= set(CASES) - {"form in a sandboxed frame"}
    assert with_session(siblings) == set(SAFE)

    # From another site only what leads the user here brings it, unless it is SameSite=None.
    forms = {"form", "form without a referrer"}
    assert with_cookie(evils) & set(UNSAFE) == (forms if family == "secure" else set())
    assert with_session(evils) == {"link", "form that is redirected"}

    told = {each.site is not None for seen in (ours, siblings, evils) for each in seen.values()}
    assert told == ({True, False} if family == "secure" else {False})
    assert {each.origin for each in evils.values()} == {evil, "null", None}

"""The page of docs/idle-warning.md in two tabs of Chromium, and what a sign-out leaves there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright
from starlette.middleware import Middleware

from redis_sessions import MemoryStore, SessionManager, SessionMiddleware
from redis_sessions.fastapi import SessionDep
from redis_sessions.testing import Clock
from tests.support import ROOT
from tests.support.apps import serve
from tests.support.asgi import KEY
from tests.support.chromium import ARGUMENTS

PAGE = ROOT / "docs" / "idle-warning.md"
POLL = 15_000
"""The page's interval, in milliseconds."""


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as context:
        context.set_default_timeout(20_000)
        yield context


def documented(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> tuple[FastAPI, SessionManager]:
    """The application of the page, by this clock and over plain http."""
    code = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert code is not None
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    module = ModuleType("documented")
    exec(compile(code[1], str(PAGE), "exec"), vars(module))  # noqa: S102 - it is ours

    class Now(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # no Self
            return datetime.fromtimestamp(clock(), tz)

    vars(module)["datetime"] = Now
    app: FastAPI = vars(module)["app"]
    [middleware] = app.user_middleware
    idle: Any = middleware.kwargs["idle_timeout"]
    manager = SessionManager(MemoryStore(clock=clock), KEY, clock=clock, idle_timeout=idle)
    app.user_middleware = [Middleware(SessionMiddleware, manager=manager, https_only=False)]
    return app, manager


def test_two_tabs_in_step(context: BrowserContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls don't prolong the session; the button in one tab does, and the other one shows it."""
    clock = Clock()
    app, manager = documented(clock, monkeypatch)
    with serve(app) as address:
        url = f"http://{address}/"
        context.request.post(f"{url}sign-in")
        context.clock.install(time=0)
        context.clock.pause_at(1000)
        tabs = [context.new_page(), context.new_page()]
        for tab in tabs:
            with tab.expect_response("**/session"):
                tab.goto(url)
        for passed, left in ((1200 - 60, 60), (30, 30)):
            clock.advance(passed)
            context.clock.fast_forward(POLL)
            for tab in tabs:
                expect(tab.get_by_role("alert")).to_be_visible()
                expect(tab.get_by_role("timer")).to_have_text(f"{left} seconds left")
        assert manager.counts["touched"] == 0

        tabs[0].get_by_role("button", name="I'm still here").click()
        for tab in tabs:  # no time passes for the other one: the first one tells it
            expect(tab.locator("#warning")).to_be_hidden()
            expect(tab.locator("#left")).to_have_text("1200 seconds left")
        assert manager.counts["touched"] == 1

        clock.advance(1200)
        context.clock.fast_forward(POLL)
        for tab in tabs:
            expect(tab.get_by_role("heading")).to_have_text("Signed out")


def test_nothing_is_left_after_a_sign_out(context: BrowserContext) -> None:
    """With `clear_site_data` the browser forgets what scripts have stored, and cached pages."""
    app = FastAPI()
    served = list[str]()

    @app.post("/sign-in")
    async def sign_in(session: SessionDep) -> None:
        session.sign_in(1)

    @app.post("/sign-out")
    async def sign_out(session: SessionDep) -> None:
        session.clear()

    @app.get("/")
    async def account() -> HTMLResponse:
        return HTMLResponse("<h1>Account</h1>")

    @app.get("/cached")
    async def cached() -> HTMLResponse:
        served.append("cached")
        return HTMLResponse("mine", headers={"cache-control": "private, max-age=3600"})

    manager = SessionManager(MemoryStore(), KEY)
    app.add_middleware(
        SessionMiddleware,
        manager=manager,
        https_only=False,
        clear_site_data=("cache", "storage"),
    )
    with serve(app) as address:
        page = context.new_page()
        page.goto(f"http://{address}/")
        ask = "async ([method, path]) => (await fetch(path, {method})).ok"
        look = "() => [localStorage.getItem('draft'), document.cookie]"
        assert page.evaluate(ask, ["POST", "/sign-in"])
        page.evaluate("localStorage.setItem('draft', 'secret'); document.cookie = 'theme=dark'")
        for _ in range(2):
            assert page.evaluate(ask, ["GET", "/cached"])
        assert len(served) == 1
        assert page.evaluate(look) == ["secret", "theme=dark"]

        assert page.evaluate(ask, ["POST", "/sign-out"])

        assert page.evaluate(look) == [None, "theme=dark"]
        assert page.evaluate(ask, ["GET", "/cached"])
        assert len(served) == 2

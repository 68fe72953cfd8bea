"""The Playwright example of docs/testing.md, in Chromium: a session that needs no sign-in page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import sync_playwright

from redis_sessions import CookieTransport, MemoryStore, SessionManager, SessionMiddleware
from redis_sessions.fastapi import PrincipalDep
from redis_sessions.testing import browser_cookie
from tests.support import ROOT
from tests.support.apps import serve
from tests.support.asgi import KEY
from tests.support.chromium import ARGUMENTS

PAGE = ROOT / "docs" / "testing.md"


def test_documented(chromium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's test passes, and cookies with other options are taken as a browser has them."""
    monkeypatch.setenv("SESSION_SECRET_KEY", KEY)
    code = re.search(
        r"^## Playwright\n.*?^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert code is not None
    documented: dict[str, Any] = {}
    exec(compile(code[1], str(PAGE), "exec"), documented)  # noqa: S102 - it is ours
    manager = SessionManager(MemoryStore(), KEY)
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    @app.get("/me")
    async def me(user: PrincipalDep) -> str:
        return user

    with serve(app) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        with browser.new_context() as context:
            documented.update(manager=manager, URL=f"http://{address}")
            documented["test_me"](context, context.new_page())

            others = [
                CookieTransport(),
                CookieTransport("a", path="/app", https_only=False, same_site="strict"),
                CookieTransport("b", domain="example.com", same_site="none", partitioned=True),
            ]
            for transport in others:
                cookie = browser_cookie("x", "https://app.example.com/", transport=transport)
                context.add_cookies([cookie])
            cookies: list[Any] = context.cookies()
            kept = {c["name"]: c for c in cookies if c["value"] == "x"}
        browser.close()
    assert kept["__Host-session"]["domain"] == "app.example.com"
    assert (kept["a"]["path"], kept["a"]["secure"], kept["a"]["sameSite"]) == (
        *("/app", False, "Strict"),
    )
    assert kept["b"]["domain"] == ".example.com"
    assert all(cookie["httpOnly"] for cookie in kept.values())

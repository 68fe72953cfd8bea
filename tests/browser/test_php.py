"""A shop in PHP and an application of ours, side by side, in Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from playwright.sync_api import sync_playwright

from redis_sessions import SessionMiddleware, get_session
from redis_sessions.php import PhpSessions
from tests.support.apps import serve
from tests.support.asgi import KEY
from tests.support.chromium import ARGUMENTS
from tests.support.servers import as_owner
from tests.support.shop import shop


def test_one_login(chromium: Path, php: Path, redis_url: str, prefix: str) -> None:
    """Who signs in with PHP is known here, the cart is the same, and a sign-out is one on both."""
    url, theirs = as_owner(redis_url), f"{prefix}php:"
    app = FastAPI()
    app.add_middleware(
        SessionMiddleware,
        store=url,
        prefix=prefix,
        secret_key=KEY,
        https_only=False,
        accept=[
            PhpSessions(
                url,
                prefix=theirs,
                map={"user_id": "user.id", "cart": "cart"},
                write_back={"user_id", "cart"},
                https_only=False,
            )
        ],
    )

    @app.get("/{do}")
    async def do(request: Request, do: str, user: str = "", sku: str = "") -> dict[str, Any]:
        session = get_session(request)
        if do == "login":
            session.sign_in(user)
        elif do == "logout":
            session.clear()
        elif do == "add":
            session["cart"] = {**session.get("cart", {}), sku: 1}
        return dict(session)

    path = f"{url.replace('redis://', 'tcp://').removesuffix('/0')}?prefix={theirs}"
    settings = ["session.save_handler=redis", f'session.save_path="{path}"']
    with (
        shop(php, *settings) as theirs_url,
        serve(app) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        with browser.new_context() as context:
            page = context.new_page()

            def seen(address: str) -> Any:
                page.goto(address)
                return json.loads(page.inner_text("body"))

            ours = f"http://{address}"
            seen(f"{theirs_url}/login?user=alice")
            assert seen(f"{ours}/me")["user_id"] == "alice"
            seen(f"{ours}/add?sku=tea")
            assert seen(f"{theirs_url}/")["session"]["cart"] == {"tea": 1}
            seen(f"{ours}/logout")
            assert seen(f"{theirs_url}/")["session"] == []
            seen(f"{ours}/login?user=bob")
            assert seen(f"{theirs_url}/")["session"]["user"] == {"id": "bob"}
            seen(f"{theirs_url}/logout")
            assert seen(f"{ours}/me") == {}
        browser.close()

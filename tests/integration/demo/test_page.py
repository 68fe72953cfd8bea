"""The demo's page: what it refuses, escapes, forbids and refers to."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.integration.demo.process import Demo


@pytest.mark.parametrize("name", ["", "   ", "x" * 65])
def test_names_that_are_refused(browser: httpx.Client, name: str) -> None:
    """A name has 1 to 64 characters besides spaces; otherwise nothing happens."""
    answer = browser.post("/sign-in", data={"name": name})

    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


def test_a_name_is_never_markup(browser: httpx.Client) -> None:
    """What somebody types is escaped wherever the page shows it."""
    page = browser.post("/sign-in", data={"name": "<script>alert(1)</script>"}).text

    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 3


@pytest.mark.parametrize("path", ["", "laptop/", "phone/cart", "static/style.css", "nowhere"])
def test_headers(browser: httpx.Client, demo: Demo, path: str) -> None:
    """Every response forbids foreign content, framing by others, sniffing and storing."""
    headers = browser.get(demo.stage + path).headers

    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'self'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["", "laptop/", "laptop/cart"])
def test_the_pages_need_nothing_from_elsewhere(
    browser: httpx.Client, demo: Demo, path: str
) -> None:
    """All that a page refers to is served by the demo, and it has no inline script or style."""
    page = browser.get(demo.stage + path).text

    links = re.findall(r'(?:href|src|action)="([^"]+)"', page)
    assert "/static/style.css" in links
    assert [link for link in links if ":" in link or link.startswith("//")] == []
    assert all(
        browser.get(f"{demo.stage}{link[1:]}").is_success
        for link in links
        if link[:1] == "/" and not link.startswith("/panels/") and link != "/laptop/open"  # POST
    )
    assert re.findall(r"<script[^>]*>[^<]", page) == []
    assert " style=" not in page


@pytest.mark.usefixtures("curl")
def test_the_commands_on_the_page_work(browser: httpx.Client, tmp_path: Path) -> None:
    """The curl commands count, sign in, look, sign out elsewhere, and here."""
    commands = re.search(r'<pre id="commands"[^>]*>(.*?)</pre>', browser.get("/").text, re.DOTALL)
    assert commands is not None
    run = subprocess.run(
        ["sh", "-euc", html.unescape(commands[1])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    counted, signed_in, looked, alone, signed_out = map(json.loads, run.stdout.splitlines())

    assert counted["session"]["data"] == {"count": 1}
    assert signed_in["session"]["principal"] == "Ada"
    assert signed_in["session"]["data"]["count"] == 1
    assert looked == signed_in
    assert [device["current"] for device in alone["devices"]] == [True]
    assert signed_out["record"] is None

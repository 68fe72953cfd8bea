"""NiceGUI in a mount, in Chromium: its storage is in a session of its own, which it reads late."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.test_demo import ARGUMENTS
from tests.interop.kit import HTTP, Records
from tests.support import ROOT


@pytest.fixture
def address(redis_url: str, prefix: str, tmp_path: Path) -> Iterator[str]:
    """Where the application is served."""
    command = [sys.executable, "-m", "tests.interop.nicegui_app", redis_url, prefix]
    # Where it knows that it is tested, it does other things.
    there = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    there["NICEGUI_STORAGE_PATH"] = str(tmp_path)
    with subprocess.Popen(
        command, cwd=ROOT, env=there, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            yield next(found[0] for line in lines if (found := re.search("http://[0-9.:]+", line)))
        finally:
            process.terminate()


def clicks(page: Page, address: str) -> None:
    """Two clicks on each of two pages; the second page knows of the first one's."""
    for before in (0, 2):
        page.goto(f"{address}/ui/")
        expect(page.get_by_text(f"clicks {before}")).to_be_visible()
        for count in (before + 1, before + 2):
            page.get_by_role("button", name="click").click()
            expect(page.get_by_text(f"clicks {count}, here")).to_be_visible()


def test_storage_in_event_handlers(address: str, chromium: Path, records: Records) -> None:
    """`app.storage.user` and `.browser` work in event handlers, beside a sign-in in ours."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page()
        page.goto(f"{address}/sign-in")
        clicks(page, address)
        page.goto(f"{address}/me")
        expect(page.get_by_text('{"user_id":"ann"}')).to_be_visible()
        cookies = {cookie.get("name"): cookie.get("value") for cookie in page.context.cookies()}
        browser.close()
    assert set(cookies) == {HTTP.cookie, "session"}
    assert records.read(cookies[HTTP.cookie] or "") == {"user_id": "ann"}

"""NiceGUI in a mount, in Chromium: its storage is in a session of its own, which it reads late."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.interop.serving import HTTP, Records, served
from tests.support.chromium import ARGUMENTS


def clicks(page: Page, address: str) -> None:
    """Two clicks on each of two pages; the second page knows of the first one's."""
    for before in (0, 2):
        page.goto(f"{address}/ui/")
        expect(page.get_by_text(f"clicks {before}")).to_be_visible()
        for count in (before + 1, before + 2):
            page.get_by_role("button", name="click").click()
            expect(page.get_by_text(f"clicks {count}, here")).to_be_visible()


@pytest.mark.timeout(180)  # its imports alone take seconds
def test_storage_in_event_handlers(
    redis_url: str, prefix: str, tmp_path: Path, chromium: Path, records: Records
) -> None:
    """`app.storage.user` and `.browser` work in event handlers, and our session beside them."""
    environment = {**os.environ, "NICEGUI_STORAGE_PATH": str(tmp_path)}
    with (
        served("tests.interop.nicegui_app", redis_url, prefix, environment=environment) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page()
        page.goto(f"{address}/sign-in")
        clicks(page, address)
        page.goto(f"{address}/me")
        expect(page.get_by_text('{"user_id":"ann","clicks":4}')).to_be_visible()
        cookies = {cookie.get("name"): cookie.get("value") for cookie in page.context.cookies()}
        browser.close()
    assert set(cookies) == {HTTP.cookie, "session"}
    assert records.read(cookies[HTTP.cookie] or "") == {"user_id": "ann", "clicks": 4}

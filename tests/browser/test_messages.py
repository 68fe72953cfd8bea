"""examples/messages in Chromium, over two workers."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from redis_sessions.connect.launch import launch
from tests.support import ROOT
from tests.support.asgi import KEY
from tests.support.chromium import ARGUMENTS
from tests.support.servers import free_port

TRIES = 100
"""How often a page is opened, until the other worker serves it. The system chooses one."""


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The example, served by two processes."""
    port = free_port()
    environment = {"REDIS_URL": redis_url, "SESSION_SECRET_KEY": KEY, "DEVELOPMENT": "1"}

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    process: subprocess.Popen[bytes] = launch(
        [
            *("env", f"PYTHONPATH={ROOT}", "SECONDS=0.1"),
            *(f"{name}={value}" for name, value in environment.items()),
            *(sys.executable, "-m", "uvicorn", "main:app", "--workers", "2"),
            *("--app-dir", str(ROOT / "examples" / "messages"), "--log-level", "warning"),
            *("--timeout-graceful-shutdown", "1", "--port", str(port)),
        ],
        tmp_path_factory.mktemp("messages") / "log",
        answers,
    )
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    process.wait(20)


def signed_in(browser: Browser, url: str, name: str, password: str) -> BrowserContext:
    context = browser.new_context()
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.goto(url)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading")).to_have_text(name)
    page.close()
    return context


def listening(context: BrowserContext, url: str) -> tuple[Page, str]:
    """A new tab, and the process that it listens to."""
    page = context.new_page()
    page.goto(url)
    process = page.locator("#process")
    expect(process).not_to_be_empty()
    return page, process.inner_text()


def test_two_workers(browser: Browser, url: str) -> None:
    """What one worker sends shows in tabs that listen to either, and in no other user's."""
    ada = signed_in(browser, url, "ada", "engine")
    bob = signed_in(browser, url, "bob", "builder")
    tab, process = listening(ada, url)
    for _ in range(TRIES):
        other_tab, other_process = listening(ada, url)
        if other_process != process:
            break
        other_tab.close()
    else:
        raise AssertionError("one process serves all")
    his, _ = listening(bob, url)

    tab.get_by_role("button", name="Export", exact=True).click()
    for page in (tab, other_tab):
        expect(page.get_by_role("listitem")).to_have_text("Export 1 is ready")
    his.get_by_role("button", name="Greet everybody").click()
    for page in (tab, other_tab):
        expect(page.get_by_role("listitem").last).to_contain_text("bob greets, by process")
    expect(his.get_by_role("listitem")).to_have_count(1)  # the greeting, and no export

    late, _ = listening(ada, url)  # it asks for what is ready already
    expect(late.get_by_role("listitem")).to_have_text("Export 1 is ready")
    late.close()

    tab.get_by_role("button", name="Sign out").click()
    for page in (tab, other_tab):
        expect(page.get_by_label("Password")).to_be_visible()
    expect(his.get_by_role("heading")).to_have_text("bob")
    ada.close()
    bob.close()

"""The documentation site in Chromium: axe-core finds no fault with it, and its search answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.chromium import ARGUMENTS
from tests.support.documentation import builder

PAGES = ("", "how-to/forms/", "concepts/", "errors/")
"""The start page, a how-to, one with drawings and wide tables, and a reference."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, built as `make docs` does."""
    docs = builder()
    docs.stage()
    assert docs.build() == 0
    serve = partial(SimpleHTTPRequestHandler, directory=str(docs.SITE))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


def visit(page: Page, path: str) -> None:
    """Open a page of the site, and wait for what the theme's script adds."""
    page.goto(path)
    if page.locator("pre").count():
        page.locator("nav.md-code__nav").first.wait_for(state="attached")


def faults(page: Page, axe_core: str) -> list[tuple[str, list[str]]]:
    """What axe-core finds, and where."""
    page.evaluate(axe_core)
    found = page.evaluate("axe.run()")["violations"]
    return [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found]


@pytest.fixture(params=["light", "dark"])
def page(browser: Browser, site: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page, on a desktop with light colours or on a phone with dark ones.

    The browser may find no fault with anything until the test's end.
    """
    phone = request.param == "dark"
    with browser.new_context(
        color_scheme="dark" if phone else "light",
        viewport={"width": 360 if phone else 1280, "height": 800},
        base_url=site,
    ) as context:
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
        assert complaints == []


@pytest.mark.parametrize("path", PAGES)
def test_no_fault_is_found(page: Page, axe_core: str, path: str) -> None:
    """axe-core finds none, in both colour schemes and widths."""
    visit(page, path)
    assert faults(page, axe_core) == []


def test_no_fault_is_found_in_what_opens(page: Page, axe_core: str) -> None:
    """Neither in a phone's menu nor in the search and its results."""
    visit(page, "how-to/error-trackers/")
    menu = page.locator("label.md-header__button[for=__drawer]")
    if menu.is_visible():
        menu.click()
        expect(page.locator(".md-nav--primary")).to_be_in_viewport()
        assert faults(page, axe_core) == []
        visit(page, "how-to/error-trackers/")
    page.keyboard.press("/")
    page.get_by_role("combobox", name="Search").fill("sign out everywhere")
    expect(page.get_by_role("option").first).to_be_visible()
    assert faults(page, axe_core) == []


QUESTIONS = {
    "sign out a user on all devices": "sessions/",
    "session lost after restart": "questions/",
    "cookie not sent over http localhost": "questions/",
    "change session timeout": "questions/",
    "remember me": "lifetimes/",
    "csrf token": "questions/",
    "redis cluster": "questions/",
    "rotate secret key": "questions/",
    "list logged in devices": "questions/",
    "multiple workers": "questions/",
    "KeyError user_id": "questions/",
    "current user dependency": "questions/",
    "session id": "questions/",
    "503": "runbook/",
}
"""What a newcomer types, and where one of the first five results leads."""

LINKS = "all => all.map(one => (one.closest('a') ?? one.querySelector('a')).href)"


def test_questions_are_answered(browser: Browser, site: str) -> None:
    """The search has an answer to each, in the words that somebody uses who is new here."""
    with browser.new_context(base_url=site) as context:
        page = context.new_page()
        visit(page, "")
        page.keyboard.press("/")
        field, options = page.get_by_role("combobox", name="Search"), page.get_by_role("option")
        unanswered: dict[str, list[str]] = {}
        for question, answer in QUESTIONS.items():
            field.fill("")
            expect(options).to_have_count(0)
            field.fill(question)
            expect(options.first).to_be_visible()
            found: list[str] = options.evaluate_all(LINKS)
            if not any(link.startswith(f"{site}{answer}") for link in found[:5]):
                unanswered[question] = found[:5]
        assert unanswered == {}

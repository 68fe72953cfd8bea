"""The demo in Chromium: what somebody does there who tries the library for the first time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from tests.support.chromium import ARGUMENTS
from tests.support.servers import as_owner

COOKIE = "redis-sessions-demo"
ONE_OR_TWO = [(1, "desktop"), (2, "phone")]
"""Processes, and where the page is: what is told to another tab depends on the first alone."""


@pytest.fixture(scope="module")
def demo(redis_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of the laptop's window. The parameter is the number of processes."""
    command = [sys.executable, "-m", "redis_sessions.cli", "demo", "--port", "0"]
    command += ["--workers", str(getattr(request, "param", 1))]
    with subprocess.Popen(
        [*command, "--store", as_owner(redis_url)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        try:
            assert address is not None
            yield f"{address[0]}laptop/"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=["desktop", "phone"])
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    phone = request.param == "phone"
    context = browser.new_context(
        viewport={"width": 360, "height": 740} if phone else {"width": 1280, "height": 900},
        is_mobile=phone,
        has_touch=phone,
    )
    yield context
    context.close()


def _failure(request: Request) -> list[str]:
    # Leaving a page stops what it still fetches, its icon for one.
    return [] if request.failure == "net::ERR_ABORTED" else [f"{request.url}: {request.failure}"]


@pytest.fixture
def page(context: BrowserContext, demo: str) -> Iterator[Page]:
    """The page, open; the browser may find no fault with anything until the test's end."""
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.extend(_failure(request)))
    page.goto(demo)
    yield page
    assert complaints == []


def button(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("Any name").fill(name)
    button(page, "Sign in")
    expect(page.locator("#principal")).to_have_text(name)
    page.wait_for_load_state()  # the stylesheet


def short_id(page: Page) -> str:
    """The session's id, as the list of devices has it."""
    return page.locator("#session-id").inner_text().rstrip("…")


def test_signing_in_counting_and_signing_out(page: Page, context: BrowserContext) -> None:
    """One visit: count, sign in under a new id, see the record, count on, sign out."""
    assert context.cookies() == []

    button(page, "Count")
    expect(page.locator("#count")).to_have_text("1")
    before = page.locator("#session-id").inner_text()  # the first characters

    sign_in(page, "Ada Lovelace")
    expect(page.locator("#count")).to_have_text("1")
    expect(page.locator("#previous-id")).to_have_text(before)
    expect(page.locator("#session-id")).not_to_have_text(before)

    sealed = page.locator("#sealed").inner_text()
    button(page, "Count")
    expect(page.locator("#count")).to_have_text("2")
    expect(page.locator("#sealed")).not_to_have_text(sealed)
    expect(page.locator("#data")).to_contain_text("Ada Lovelace")
    expect(page.locator("#record")).not_to_contain_text("Ada")

    button(page, "Sign out")
    expect(page.get_by_label("Any name")).to_be_visible()
    expect(page.locator("#record")).to_have_count(0)
    assert context.cookies() == []


def test_the_cookie(page: Page, context: BrowserContext) -> None:
    """No script can read it, no other site's form sends it; it ends with the session."""
    sign_in(page, "Grace")

    [cookie] = context.cookies()
    assert cookie.get("name") == COOKIE
    assert len(cookie.get("value", "")) == 64
    assert cookie.get("path") == "/laptop"
    assert cookie.get("domain") == "127.0.0.1"  # this host alone: without a dot before it
    assert cookie.get("httpOnly") is True
    assert cookie.get("sameSite") == "Lax"
    assert cookie.get("secure") is False
    now = page.evaluate("Date.now() / 1000")
    assert 0 < cookie.get("expires", 0) - now <= 14 * 24 * 3600
    assert page.evaluate("document.cookie") == ""

    button(page, "Count")
    expect(page.locator("#count")).to_have_text("1")
    assert context.cookies() == [cookie]


def test_devices(page: Page, browser: Browser, demo: str) -> None:
    """Two browsers with one name: each is listed, and one signs the other out, which says so."""
    name = f"Ida {page.evaluate('crypto.randomUUID()')}"
    sign_in(page, name)
    with browser.new_context() as elsewhere:
        other = elsewhere.new_page()
        for everywhere in (False, True):
            other.goto(demo)
            sign_in(other, name)
            expect(page.locator(".devices li")).to_have_count(2)  # by itself
            if everywhere:
                button(page, "Sign out everywhere else")
            else:
                button(page, f"Sign out {short_id(other)}")
            expect(other.locator("#signed-out")).to_be_visible()
            expect(other.get_by_label("Any name")).to_be_visible()
            expect(other.locator("#record")).to_have_count(0)
            expect(page.locator(".devices li")).to_have_count(1)
            expect(page.locator(".devices li")).to_contain_text("this one")

    button(page, f"Sign out {short_id(page)}")
    expect(page.get_by_label("Any name")).to_be_visible()
    expect(page.locator("#signed-out")).to_be_hidden()


@pytest.mark.parametrize(("demo", "context"), ONE_OR_TWO, indirect=True)
def test_a_cart_in_two_tabs(page: Page, context: BrowserContext, demo: str) -> None:
    """What is done in one tab shows in the other, whichever process serves it."""
    other = context.new_page()
    other.goto(demo)
    for tab, following in ((page, other), (other, page)):
        button(tab, "Add apple")
        for each in (tab, following):
            expect(each.locator("#cart button")).to_contain_text(["apple"])
        button(tab, "Add pear")
        expect(tab.locator("#cart button")).to_contain_text(["apple", "pear"])
        expect(following.locator("#cart button")).to_contain_text(["apple", "pear"])
        expect(following.locator("#data")).to_contain_text("pear")
        expect(following.locator("#sealed")).to_have_text(tab.locator("#sealed").inner_text())
        button(following, "Remove apple")
        for each in (tab, following):  # a list of texts may also be a part of what there is
            expect(each.locator("#cart button")).to_have_count(1)
            expect(each.locator("#cart button")).to_contain_text(["pear"])
        button(following, "Remove pear")
        expect(tab.locator("#cart")).to_have_text("The cart is empty.")


@pytest.mark.parametrize(("demo", "context"), ONE_OR_TWO, indirect=True)
def test_signing_in_and_out_in_two_tabs(page: Page, context: BrowserContext, demo: str) -> None:
    """A tab shows who has signed in in another one, and says that they have signed out."""
    other = context.new_page()
    other.goto(demo)
    for name in ("Ada", "Grace"):
        sign_in(page, name)
        expect(other.locator("#principal")).to_have_text(name)
        expect(other).to_have_title(f"{name} · redis-sessions demo")
        expect(other.locator("#signed-out")).to_be_hidden()
        button(page, "Sign out")
        expect(other.locator("#signed-out")).to_be_visible()
        expect(other.get_by_label("Any name")).to_be_visible()
        expect(page.locator("#signed-out")).to_be_hidden()


def test_it_needs_no_script(browser: Browser, demo: str) -> None:
    """Without JavaScript everything works that somebody does, in one tab."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(demo)
        button(page, "Add apple")
        expect(page.locator("#cart button")).to_contain_text(["apple"])
        sign_in(page, "Ada")
        button(page, "Remove apple")
        expect(page.locator("#cart")).to_have_text("The cart is empty.")
        button(page, "Sign out")
        expect(page.get_by_label("Any name")).to_be_visible()


def test_a_blank_name_goes_nowhere(page: Page, demo: str) -> None:
    """The browser asks for a name before it sends anything."""
    for name in ("", "   "):
        page.get_by_label("Any name").fill(name)
        button(page, "Sign in")
        assert page.evaluate("document.querySelector('#name').validity.valid") is False
        assert page.url == demo


@pytest.mark.parametrize("signed_in", [False, True])
def test_it_can_be_used_without_a_mouse_or_eyes(page: Page, signed_in: bool) -> None:
    """Each control has a name, the keyboard reaches them all, and headings and regions are told."""
    if signed_in:
        sign_in(page, "Ada")

    assert page.locator("html").get_attribute("lang") == "en"
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page.get_by_role("main")).to_have_count(1)
    page.reload()  # the focus is where it is at first
    controls = page.locator("a, input:not([type=hidden]), button, [tabindex]")
    names = [controls.nth(index).aria_snapshot() for index in range(controls.count())]
    assert names
    assert all('"' in name for name in names), names

    for index in range(controls.count()):
        page.keyboard.press("Tab")
        assert controls.nth(index).evaluate("control => control === document.activeElement")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(page: Page, scheme: str) -> None:
    """Text stands out from what is behind it (WCAG 2.2, 1.4.3), in both colour schemes."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    sign_in(page, "Ada")
    contrasts: list[tuple[str, float]] = page.evaluate(CONTRASTS)

    assert len(contrasts) > 20
    assert [worst for worst in contrasts if worst[1] < 4.5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert all(int(part) < 128 for part in re.findall(r"\d+", background)) is (scheme == "dark")


def test_nothing_sticks_out(page: Page) -> None:
    """The page is as wide as the screen; what is wider scrolls by itself."""
    sign_in(page, "A name without any place to break " + "x" * 30)

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
    sticking: list[str] = page.evaluate(
        "[...document.querySelectorAll('body *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML)"
    )
    assert sticking == []


def test_a_click_while_redis_is_away(browser: Browser, demo: str) -> None:
    """It says so, also to who isn't signed in and can see the page; and only for a while."""
    with browser.new_context() as context:
        page = context.new_page()
        page.clock.install()
        page.route("**/count", lambda route: route.fulfill(status=503))
        page.goto(demo)
        button(page, "Count")
        expect(page.locator("#away")).to_be_visible()
        page.clock.run_for(3000)
        expect(page.locator("#away")).to_be_hidden()


# -- two browsers in one page


def test_two_browsers_in_one_page(context: BrowserContext, demo: str, axe_core: str) -> None:
    """Devices appear and vanish by themselves, and axe-core finds no fault, also in the panels."""
    page = context.new_page()
    page.goto(demo.removesuffix("laptop/"))
    laptop, phone = (page.frame_locator(f".{name} iframe") for name in ("laptop", "phone"))
    name = f"Eve {page.evaluate('crypto.randomUUID()')}"
    for window in (laptop, phone):
        window.get_by_label("Any name").fill(name)
        window.get_by_role("button", name="Sign in").click()
    for window in (laptop, phone):
        expect(window.locator(".devices li")).to_have_count(2)

    tabs = [page.frame_locator(f"iframe[src$='tab={number}']") for number in (2, 3)]
    tabs[0].get_by_role("button", name="Add apple").click()
    expect(tabs[1].locator("#cart button")).to_contain_text(["apple"])
    expect(laptop.locator("#cart button")).to_contain_text(["apple"])
    for panel in ("Send 20 requests", "Count the commands", "Measure 300 reads"):
        page.get_by_role("button", name=panel).click()
    for result in ("#race-result table", "#cost-result table", "#near-result svg"):
        expect(page.locator(result)).to_be_visible()
    page.get_by_label("the browser's token").check()
    expect(page.locator("#record-result")).to_contain_text("it opens")

    for frame in page.frames:
        frame.evaluate(axe_core)
        assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        found = page.evaluate("axe.run()")["violations"]
        assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found] == []

    laptop.locator(".devices li", has_text="Mobile Safari").get_by_role("button").click()
    expect(phone.locator("#signed-out")).to_be_visible()
    expect(phone.get_by_label("Any name")).to_have_value("Ada")  # as at first: one click
    expect(laptop.locator(".devices li")).to_have_count(1)
    expect(laptop.locator("#signed-out")).to_be_hidden()


CONTRASTS = """
() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter(e => [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim()))
    .map(e => {
      const pair = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))];
      return [e.outerHTML.slice(0, 60), (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)];
    });
}
"""

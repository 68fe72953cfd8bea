"""The commands of docs/command-line.md, and what they print there."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Sequence
from typing import cast

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from redis_sessions import RedisStore, Session, SessionManager, SessionMiddleware, generate_key
from redis_sessions.cli import commands
from redis_sessions.stores.leases import leases_of
from tests.integration.operating import Site
from tests.support import ROOT
from tests.support.servers import as_owner

PAGE = (ROOT / "docs" / "command-line.md").read_text()
PHONE, LAPTOP = "gAUGjsIkbIeJAxXoGZ8h", "Kp0cVd8vZ3Jc5nXJrWmA"
BROWSERS = {
    PHONE: "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    LAPTOP: "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0",
}


async def use(request: Request) -> Response:
    """Sign in, or begin a cart."""
    session = cast("Session", request.session)
    if user := request.query_params.get("user"):
        session.sign_in(user, methods=["pwd"])
    session["cart"] = ["book"]
    return Response()


def browsing(url: str, prefix: str, key: str) -> dict[str, str]:
    """Tokens by the ids that the page has for them."""
    app = Starlette(routes=[Route("/", use, methods=["POST"])])
    app.add_middleware(SessionMiddleware, store=url, prefix=prefix, secret_key=key)
    tokens = dict[str, str]()
    for id, agent in (*BROWSERS.items(), ("", "x"), ("-", "x")):
        user = {"": "7", "-": ""}.get(id, "42")
        client = TestClient(app, base_url="https://a.test", client=("203.0.113.9", 1))
        with client as browser:
            browser.post("/", params={"user": user}, headers={"User-Agent": agent})
            (tokens[id],) = browser.cookies.values()
    return tokens


def blocks() -> list[tuple[str, list[str]]]:
    """Each command of the page, and the lines below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def form(lines: Sequence[str]) -> list[str]:
    """The lines without what differs each time, in an order of their own."""
    text = "\n".join(lines)
    for pattern, name in (
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"(?<![\w-])[\w-]{20}(?![\w-])", "ID"),
        (r"\b[0-9a-f]{48}\b|\b[0-9a-f]{24}\b|\b[0-9a-f]{8}\b", "HEX"),
        (r"\b\d+\.\d+\.\d+\.\d+\b|testclient", "ADDRESS"),
        (r"(localhost|ADDRESS):\d+", "ADDRESS"),
        (r"(Redis|Valkey) [\d.]+", "SERVER"),
        (r"\d+(\.\d+)? (s|min) ago", "AGO"),
        (r"in \d+ s\b", "IN"),
        (r"\b\d{16}\b", "TOKEN"),
        (r"ends_in\W+[\d.]+", "ENDS"),
        (r"\d+ (bytes|clients)|[\d.]+ [KMG]iB|size: +\d+", "SIZE"),
        (r"up to \d+,|largest \d+", "SIZE"),
        (r"[ \n]+$", ""),
        (r" {2,}", "  "),
    ):
        text = re.sub(pattern, name, text)
    return sorted(text.splitlines())


async def test_what_the_page_shows(redis_url: str, prefix: str) -> None:
    """Each command, one after the other, prints what is below it."""
    url = as_owner(redis_url)
    key = generate_key()
    tokens = await asyncio.to_thread(browsing, url, prefix, key)
    site = Site(SessionManager(RedisStore(url, prefix=prefix), key), url, key)
    leases = leases_of(site.manager.store)
    await leases.acquire("nightly", "a", 60, "web-1:4711", 0)
    await leases.begin("nightly", "a", "run", 60)
    await leases.names("nightly")
    shown = blocks()
    assert len(shown) > 8
    for written, expected in shown:
        line, _, stdin = written.partition(" < ")
        for id in (PHONE, LAPTOP):
            line = line.replace(id, tokens[id][:20])
        words = shlex.split(line)
        variables = dict(word.split("=") for word in words if "KEY" in word)
        given = {"$NEW": generate_key(), "$OLD": site.key}
        more = {name: given[value] for name, value in variables.items()}
        args = words[len(variables) + 1 :]
        done = await site.run(*args, stdin=tokens[LAPTOP] if stdin else "", **more)
        assert form(done.stdout.splitlines()) == form(expected), written
    await site.manager.close()


def test_every_command_is_on_the_page() -> None:
    """The table has each command, and each long option is in a help, and none beside them."""
    rows = re.findall(r"^\| (.*?) \| .*\|.*\|.*\|$", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(commands().names) <= named


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`[^`\n]*?(--[a-z-]+)", PAGE))))
def test_every_option_of_the_page_exists(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Some command's help has it."""
    for name in commands().names:
        commands().run([name, "--help"])
    assert option in capsys.readouterr().out

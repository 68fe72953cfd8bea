"""The panels of the demo's first page: what each of them shows is measured or tried just then."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product

import httpx
import pytest
from starlette.testclient import TestClient

from redis_sessions import SessionManager, StoreUnavailableError, generate_key
from redis_sessions.demo import create_app
from redis_sessions.demo.view import ago
from tests.integration.demo.process import JSON, PATIENCE, URL, Demo, wait_until
from tests.support.servers import free_port

MEASURING = ("parallel", "costs", "latency")
AWAY = '{"detail":"Redis is away"}'


@pytest.fixture
def panels(demo: Demo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.stage, timeout=PATIENCE) as client:
        yield client


def cells(row: str) -> list[str]:
    """The texts of a table's row."""
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in found]


def rows(answer: httpx.Response) -> dict[str, list[str]]:
    """The rows of the answer's table, by their first cell."""
    assert answer.status_code == 200
    body = answer.text.partition("<tbody>")[2]
    read = [cells(row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)]
    return {row[0]: row[1:] for row in read}


def test_requests_at_the_same_time(panels: httpx.Client) -> None:
    """All 20 changes are kept, and a plain key loses most of them."""
    table = rows(panels.post("panels/parallel"))

    assert table["redis-sessions"] == ["20", "0"]
    kept, lost = map(int, table["GET and SET: the last write wins"])
    assert (kept < 10, kept + lost) == (True, 20)


def test_what_a_click_costs(panels: httpx.Client) -> None:
    """A visitor without a session costs nothing, a read one MGET, a change a script besides."""
    table = rows(panels.post("panels/costs"))

    assert table["look, without a session"] == ["none", "none"]
    assert table["read a page"] == ["mget", "none"]
    assert table["change something"][0] == "mget , evalsha"
    assert "evalsha" in table["sign in"][0]
    assert "hset" in table["sign in"][1]


def test_near_copies_are_drawn(panels: httpx.Client) -> None:
    """There is a dot for each request, in two series, and each has its median."""
    page = panels.post("panels/latency").text

    assert page.count("<circle") == 300
    assert len(re.findall(r"median <strong>\d+ µs", page)) == 2


@pytest.mark.parametrize(("key", "token", "prefix"), list(product([True, False], repeat=3)))
def test_a_record_opens_with_three_things(
    browser: httpx.Client, key: bool, token: bool, prefix: bool
) -> None:
    """The server's key, the token and the prefix: without one of them nothing can be read."""
    browser.post("/sign-in", data={"name": "Mary"})
    parts = {"key": key, "token": token, "prefix": prefix}
    page = browser.post("/open", data={name: "true" for name, has in parts.items() if has}).text

    assert ("Mary" in page) is all(parts.values())
    assert ("It stays closed" in page) is not all(parts.values())


def test_there_may_be_no_record(browser: httpx.Client) -> None:
    """Who only looks has none, and is told so."""
    assert "has no session yet" in browser.post("/open").text


def test_redis_is_stopped_and_started(findable_server: None) -> None:
    """Meanwhile requests get 503 and keep their cookie; afterwards the user is still signed in."""
    with Demo() as demo, demo.browser(**JSON) as browser:
        browser.post("/sign-in", data={"name": "Dora"})
        cookies = dict(browser.cookies)
        assert "stopped" in browser.post(f"{demo.stage}panels/stop_redis").text
        away = browser.get("/read")
        assert (away.status_code, away.headers.get("set-cookie")) == (503, None)
        assert browser.get(demo.stage).status_code == 200
        answers = [browser.post(f"{demo.stage}panels/{name}") for name in MEASURING]
        assert [(answer.status_code, answer.text) for answer in answers] == [(503, AWAY)] * 3
        assert "runs" in browser.post(f"{demo.stage}panels/start_redis").text
        wait_until(lambda: browser.get("/read").status_code == 200)
        assert browser.get("/").json()["session"]["principal"] == "Dora"
        assert dict(browser.cookies) == cookies


@pytest.mark.parametrize("path", ["", "open", "revoke-others"])
def test_redis_goes_away_within_a_request(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """The answer is 503 also if the session was loaded before; no error is left for the server."""
    app = create_app("memory://", generate_key())
    manager: SessionManager = app.state.demo.manager
    with TestClient(app, URL) as client:
        client.post("/laptop/sign-in", data={"name": "Zoe"})
        load, loads = manager.store.load, iter([True])

        async def once(id: str) -> bytes | None:
            if next(loads, False):
                return await load(id)
            raise away

        async def never(*_: object, **__: object) -> None:
            raise away

        away = StoreUnavailableError("it was stopped", reason="connection")
        for name, function in (("load", once), ("entries", never), ("revoke", never)):
            monkeypatch.setattr(type(manager.store), name, staticmethod(function))
        send = client.post if path else client.get
        answer = send(f"/laptop/{path}")

    assert answer.status_code == 503


def test_the_requests_of_the_race_are_the_demos_own(browser: httpx.Client) -> None:
    """No visitor's session has what they need."""
    browser.post("/sign-in", data={"name": "Mary"})
    assert browser.post("/race/1").status_code == 404


@pytest.mark.parametrize("panel", ["stop_redis", "start_redis", "parallel", "costs", "latency"])
def test_other_sites_cannot_use_the_panels(panels: httpx.Client, panel: str) -> None:
    """A form on another site's page is refused, so that it can't stop Redis."""
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://other.example"}
    assert panels.post(f"panels/{panel}", headers=foreign).status_code == 403


def test_each_panel_shows_its_code(panels: httpx.Client) -> None:
    """The code is the source of what runs."""
    page = panels.get("").text

    assert page.count("<summary>The code: ") == page.count('<section aria-labelledby="') == 7
    assert "await manager.revoke(id, principal=user)" in page


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-11-27 11:59:30+00:00", "just now"),
        ("2026-11-27 11:58:00+00:00", "2 min ago"),
        ("2026-11-27 09:00:00+00:00", "3 h ago"),
        ("2026-11-20 12:00:00+00:00", "7 days ago"),
    ],
)
def test_moments_in_words(moment: str, words: str) -> None:
    """A list of devices says how long ago it was."""
    assert ago(moment, datetime(2026, 11, 27, 12, tzinfo=UTC)) == words


def test_a_store_without_a_server() -> None:
    """In memory the windows work, and the panels that need a Redis say so."""
    with TestClient(create_app("memory://", generate_key()), URL) as client:
        assert client.get("/").text.count("needs a single Redis server") == 2
        client.post("/laptop/sign-in", data={"name": "Ruth"})
        assert "Ruth" in client.get("/laptop/").text
        for panel in ("parallel", "costs", "latency", "stop_redis", "start_redis"):
            assert client.post(f"/panels/{panel}").status_code == 404


def test_a_server_that_was_never_there(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever started the demo with a wrong URL reads it in the terminal, before any click."""
    nobody = f"redis://127.0.0.1:{free_port()}"
    with TestClient(create_app(nobody, generate_key()), base_url=URL) as client:
        assert "can't be reached" in caplog.text
        assert client.get("/").status_code == 200

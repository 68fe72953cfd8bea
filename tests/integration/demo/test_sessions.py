"""What somebody does on the demo's page, and what Redis holds then."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import httpx
import pytest
from redis import Redis

from tests.integration.demo.process import COOKIE, JSON, NAME, Demo

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


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


# -- one's own session


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
    assert f'id="previous-id" title="{before["session"]["id"]}"' in page.text
    assert f'id="session-id" title="{after["session"]["id"]}"' in page.text
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
    assert answer.headers["set-cookie"].startswith(
        f"{COOKIE}=null; path=/laptop; expires=Thu, 01 Jan"
    )
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


# -- all of a name


@pytest.fixture
def signed_in(demo: Demo) -> Iterator[Callable[[str, str], httpx.Client]]:
    """Further browsers, each with a name and a User-Agent."""
    with ExitStack() as stack:

        def sign_in(name: str, agent: str) -> httpx.Client:
            client = stack.enter_context(demo.browser(**{"User-Agent": agent}))
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

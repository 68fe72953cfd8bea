"""OpenID Connect Back-Channel Logout 1.0, by the application of docs/single-sign-on.md."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator
from secrets import token_urlsafe
from types import SimpleNamespace
from typing import Any, Final

import httpx2
import pytest
from joserfc import jws, jwt
from joserfc.jwk import OctKey, RSAKey
from starlette.testclient import TestClient

from redis_sessions import RedisStore
from tests.interop.provider import CLIENT_ID, CLIENT_SECRET, ISSUER, SUBJECT, Provider
from tests.interop.serving import HTTPS, SECRET, Records, id_of
from tests.support import ROOT

LOGOUT: Final = "http://schemas.openid.net/event/backchannel-logout"
PAGE: Final = ROOT / "docs" / "single-sign-on.md"


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


class Shop:
    """The documented application, with a browser in it, and the provider that it knows."""

    def __init__(self, code: str, store: RedisStore, provider: Provider) -> None:
        self.provider = provider
        documented: dict[str, Any] = {"store": store}
        exec(compile(code, str(PAGE), "exec"), documented)  # noqa: S102 - our own page
        self.page = SimpleNamespace(**documented)
        self.page.oauth.idp.client_kwargs["transport"] = httpx2.ASGITransport(app=provider.app)

    def browser(self) -> TestClient:
        return TestClient(self.page.shop, base_url=HTTPS.url, follow_redirects=False)

    def sign_in(self, sid: str | None) -> str:
        """A browser signs in, in this session of the provider's; its token."""
        self.provider.sid = sid
        with (
            self.browser() as client,
            TestClient(self.provider.app, base_url=ISSUER, follow_redirects=False) as idp,
        ):
            asked = client.get("/login").headers["location"]
            answer = client.get(idp.get(asked).headers["location"])
            assert answer.status_code == 303, answer.text
            return str(client.cookies[HTTPS.cookie])

    def tell(self, logout_token: str | None) -> int:
        """The provider posts a logout token; the status. No answer may be cached."""
        with self.browser() as client:
            data = {} if logout_token is None else {"logout_token": logout_token}
            answer = client.post("/backchannel-logout", data=data)
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
        return answer.status_code


@pytest.fixture
def shop(
    provider: Provider, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Generator[Shop]:
    code = re.search(r"(?ms)^```python\n(import os\n.*?)^```$", PAGE.read_text())
    assert code is not None
    monkeypatch.setenv("CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.setenv("SESSION_SECRET_KEY", SECRET)
    text = code[1].replace('store="redis://localhost:6379/0"', "store=store")
    assert "store=store" in text
    yield Shop(text, RedisStore(redis_url, prefix=prefix), provider)
    provider.sid = None


def claims(**changes: Any) -> dict[str, Any]:
    """A logout token's; None leaves a claim out."""
    now = int(time.time())
    usual: dict[str, Any] = {
        "iss": ISSUER,
        "aud": CLIENT_ID,
        "sub": SUBJECT,
        "sid": "s-1",
        "iat": now,
        "exp": now + 120,
        "jti": token_urlsafe(),
        "events": {LOGOUT: {}},
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


@pytest.mark.standard(42, "ASVS 7.6.1", "ASVS 10.5.5")
def test_a_logout_ends_the_sessions_with_its_sid(shop: Shop, records: Records) -> None:
    """Those of all browsers, once, and no others; without a `sid` all of the user's."""
    one, two = shop.sign_in("s-1"), shop.sign_in("s-1")
    other, later = shop.sign_in("s-2"), shop.sign_in(None)
    assert records.ids() == {id_of(token) for token in (one, two, other, later)}
    token = shop.provider.logout_token(claims())
    assert shop.tell(token) == 200
    assert records.ids() == {id_of(other), id_of(later)}
    again = shop.sign_in("s-3")
    assert shop.tell(token) == 200  # a replay
    assert shop.tell(shop.provider.logout_token(claims(aud=["x", CLIENT_ID], sub=None))) == 200
    assert records.ids() == {id_of(other), id_of(later), id_of(again)}
    assert shop.tell(shop.provider.logout_token(claims(sid=None), typ="logout+jwt")) == 200
    assert records.ids() == set()


@pytest.mark.standard(42, "ASVS 7.6.1", "ASVS 10.5.5")
def test_what_is_no_logout_token_ends_nothing(shop: Shop, records: Records) -> None:
    """Another audience or issuer, an id token, one without a signature or with another's: 400."""
    token, now, provider = shop.sign_in("s-1"), int(time.time()), shop.provider
    wrong: list[dict[str, Any]] = [
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": now - 120},
        {"exp": None},
        {"iat": now + 3600},
        {"iat": None},
        {"jti": None},
        {"nonce": "n"},
        {"nonce": ""},
        {"events": None},
        {"events": {}},
        {"events": [LOGOUT]},
        {"events": {LOGOUT: True}},
        {"events": {"http://schemas.openid.net/event/other": {}}},
        {"sid": None, "sub": None},
        {"sid": 7},
        {"sid": ""},
        {"sid": ["s-1"]},
        {"sid": "s" * 513},
        {"sid": "ü" * 257},
        {"sid": None, "sub": "s" * 513},
        {"sid": "s" * 513, "sub": None},
        {"sub": 7},
        {"jti": 7},
        {"jti": ["j"]},
        {"events": {LOGOUT: []}},
        {"aud": {CLIENT_ID: 1}},
        {"iat": "now"},
        {"exp": [now]},
    ]
    answers = {str(each): shop.tell(provider.logout_token(claims(**each))) for each in wrong}
    assert answers == dict.fromkeys(answers, 400)
    evil = RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})
    good = provider.logout_token(claims())
    head, body, signature = good.split(".")
    forged = {
        "another key": jwt.encode({"alg": "RS256", "kid": "1"}, claims(), evil),
        "an unknown key": jwt.encode({"alg": "RS256", "kid": "2"}, claims(), evil),
        "no signature": f"eyJhbGciOiJub25lIn0.{body}.",  # {"alg":"none"}
        "no algorithm, signed": f"eyJhbGciOiJub25lIn0.{body}.{signature}",
        "a secret key": jwt.encode(
            {"alg": "HS256", "kid": "1"}, claims(), OctKey.import_key(b"x" * 32)
        ),
        "another kind": provider.logout_token(claims(), typ="at+jwt"),
        "half": f"{head}.{body}",
        "no token": "x",
        "a deep header": "W1tb" * 50_000 + ".e30.e30",  # [[[
        "a header of another type": "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEiLCJjcml0Ijo3fQ.e30.e30",
        "half of a character": jws.serialize_compact(
            {"alg": "RS256", "kid": "1"},
            json.dumps(claims(sid="\ud800")).encode(),
            shop.provider.key,
        ),
        "nothing": "",
        "no field": None,
    }
    answers = {name: shop.tell(each) for name, each in forged.items()}
    assert answers == dict.fromkeys(answers, 400)
    assert records.ids() == {id_of(token)}
    assert shop.tell(good) == 200
    assert records.ids() == set()


@pytest.mark.parametrize(
    "query",
    ["", "code=x", "code=x&state=y", "state[]=1", "error=access_denied", "error=%00&state=%ff"],
)
def test_a_callback_that_nobody_began(shop: Shop, records: Records, query: str) -> None:
    """What anybody may send there, such as the end of another browser's sign-in, is a 400."""
    with shop.browser() as client:
        answer = client.get(f"/callback?{query}")
    assert (answer.status_code, answer.headers.get("set-cookie")) == (400, None)
    assert records.ids() == set()


def test_a_sign_in_with_a_name_that_is_too_long(shop: Shop, records: Records) -> None:
    """A `sid` that can't be an alias signs nobody in: no logout would find the session."""
    shop.provider.sid = "s" * 513
    with (
        shop.browser() as client,
        TestClient(shop.provider.app, base_url=ISSUER, follow_redirects=False) as idp,
    ):
        asked = client.get("/login").headers["location"]
        began = records.ids()
        assert client.get(idp.get(asked).headers["location"]).status_code == 400
    assert records.ids() == began


def test_a_new_key_of_the_provider_is_fetched(shop: Shop, records: Records) -> None:
    """A logout token under a key that came after the last look is valid."""
    shop.sign_in("s-1")
    shop.provider.renew_key("2")
    assert shop.tell(shop.provider.logout_token(claims())) == 200
    assert records.ids() == set()

"""Authlib's Starlette client keeps what it needs between redirect and callback in our session."""

from __future__ import annotations

import copy
from typing import Any

import httpx2
import pytest
from authlib.integrations.starlette_client import OAuth, OAuthError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from redis_sessions import SessionMiddleware
from tests.interop.provider import CLIENT_ID, CLIENT_SECRET, ISSUER, SUBJECT, Provider, query
from tests.interop.serving import HTTPS, Options, Records, Site, id_of


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


class Shop:
    """An application whose users sign in at the provider; `seen` is what its handlers saw."""

    def __init__(self, provider: Provider, options: dict[str, Any]) -> None:
        self.seen: list[dict[str, Any]] = []
        # Authlib carries no types.
        self.oauth: Any = OAuth()
        transport = httpx2.ASGITransport(app=provider.app)
        self.oauth.register(
            "idp",
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
            client_kwargs={
                "scope": "openid profile",
                "code_challenge_method": "S256",
                "transport": transport,
            },
        )
        self.oauth.register(
            "plain",
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            authorize_url=f"{ISSUER}/authorize",
            access_token_url=f"{ISSUER}/token",
            api_base_url=f"{ISSUER}/",
            client_kwargs={"scope": "profile", "transport": transport},
        )
        self.app = Starlette(
            routes=[
                Route("/cart", self.cart, methods=["POST"]),
                Route("/login/{name}", self.login),
                Route("/callback/{name}", self.callback, name="callback", methods=["GET", "POST"]),
                Route("/me", self.me),
                Route("/logout", self.logout),
                Route("/goodbye", self.goodbye, name="goodbye"),
            ],
            middleware=[Middleware(SessionMiddleware, **options)],
        )

    async def cart(self, request: Request) -> Response:
        request.session["cart"] = {"apples": 3, "weights": [0.1, 2.5]}
        return Response()

    async def login(self, request: Request) -> Response:
        name = request.path_params["name"]
        client = self.oauth.create_client(name)
        response: Response = await client.authorize_redirect(
            request, request.url_for("callback", name=name)
        )
        self.seen.append(copy.deepcopy(dict(request.session)))
        return response

    async def callback(self, request: Request) -> Response:
        name = request.path_params["name"]
        client = self.oauth.create_client(name)
        self.seen.append(copy.deepcopy(dict(request.session)))
        try:
            token = await client.authorize_access_token(request)
        except OAuthError as exc:
            return JSONResponse({"error": str(exc)}, 400)
        if name == "idp":
            request.session["user"] = token["userinfo"]  # Authlib's own dict, as it is
        else:
            request.session["user"] = (await client.get("userinfo", token=token)).json()
        request.session["token"] = token
        request.session["user_id"] = request.session["user"]["sub"]
        return RedirectResponse("/me", 303)

    async def me(self, request: Request) -> Response:
        return JSONResponse(request.session)

    async def logout(self, request: Request) -> Response:
        request.session.clear()
        response: Response = await self.oauth.idp.logout_redirect(
            request, request.url_for("goodbye")
        )
        return response

    async def goodbye(self, request: Request) -> Response:
        state = await self.oauth.idp.validate_logout_response(request)
        return JSONResponse(state)


def browser(shop: Shop, site: Site = HTTPS) -> TestClient:
    return TestClient(shop.app, base_url=site.url, follow_redirects=False)


def at_provider(provider: Provider, url: str) -> str:
    """Follow a redirect to the provider; where it sends the browser."""
    with TestClient(provider.app, base_url=ISSUER, follow_redirects=False) as client:
        return client.get(url).headers["location"]


def sign_in(provider: Provider, client: TestClient, name: str = "idp") -> None:
    to_provider = client.get(f"/login/{name}").headers["location"]
    answer = client.get(at_provider(provider, to_provider))
    assert answer.status_code == 303, answer.text


@pytest.mark.parametrize("name", ["idp", "plain"])
def test_login(
    provider: Provider, options: Options, records: Records, site: Site, name: str
) -> None:
    """OpenID Connect and plain OAuth 2 sign a visitor in, on https and on plain http."""
    shop = Shop(provider, options(https_only=site.https_only))
    with browser(shop, site) as client:
        sign_in(provider, client, name)
        me = client.get("/me").json()
        token = client.cookies[site.cookie]
    assert me["user_id"] == me["user"]["sub"] == SUBJECT
    assert me["user"]["name"] == "Jane Doe"
    assert me["token"]["token_type"] == "Bearer"
    assert records.ids() == {id_of(token)}
    assert records.read(token) == me


def test_state_before_login(provider: Provider, options: Options, records: Records) -> None:
    """State, nonce and PKCE verifier are in the visitor's session before anybody signs in."""
    shop = Shop(provider, options())
    with browser(shop) as client:
        asked = query(client.get("/login/idp").headers["location"])
        token = client.cookies[HTTPS.cookie]
    stored = records.read(token)
    assert stored is not None
    kept = stored[f"_state_idp_{asked['state']}"]
    assert kept["data"]["nonce"] == asked["nonce"]
    assert kept["data"]["redirect_uri"] == asked["redirect_uri"]
    assert len(kept["data"]["code_verifier"]) == 48
    assert "user_id" not in stored


def test_state_round_trips(provider: Provider, options: Options) -> None:
    """What Authlib wrote, nested dicts and fractions of a second, is what it finds again."""
    shop = Shop(provider, options())
    with browser(shop) as client:
        sign_in(provider, client)
    written, found = shop.seen
    assert found == written
    (kept,) = found.values()
    assert isinstance(kept["exp"], float)
    assert not kept["exp"].is_integer()


def test_id_changes_at_sign_in(provider: Provider, options: Options, records: Records) -> None:
    """Signing in gives a new id, takes the cart along, and ends the visitor's session."""
    shop = Shop(provider, options())
    with browser(shop) as client:
        client.post("/cart")
        before = client.cookies[HTTPS.cookie]
        to_provider = client.get("/login/idp").headers["location"]
        assert client.cookies[HTTPS.cookie] == before
        client.get(at_provider(provider, to_provider))
        after = client.cookies[HTTPS.cookie]
    assert id_of(after) != id_of(before)
    assert records.read(before) is None
    assert records.ids() == {id_of(after)}
    stored = records.read(after)
    assert stored is not None
    assert stored["cart"] == {"apples": 3, "weights": [0.1, 2.5]}
    assert not [key for key in stored if key.startswith("_state_")]


def test_another_browsers_callback(provider: Provider, options: Options, records: Records) -> None:
    """A callback that another browser brings (login CSRF) signs nobody in and stores nothing."""
    shop = Shop(provider, options())
    with browser(shop) as attacker, browser(shop) as victim:
        to_provider = attacker.get("/login/idp").headers["location"]
        answer = victim.get(at_provider(provider, to_provider))
        assert answer.status_code == 400
        assert "mismatching_state" in answer.json()["error"]
        assert HTTPS.cookie not in victim.cookies
        assert records.ids() == {id_of(attacker.cookies[HTTPS.cookie])}


def test_state_is_used_once(provider: Provider, options: Options) -> None:
    """A callback that is loaded again finds its state used, and the login stays as it was."""
    shop = Shop(provider, options())
    with browser(shop) as client:
        to_provider = client.get("/login/idp").headers["location"]
        callback = at_provider(provider, to_provider)
        assert client.get(callback).status_code == 303
        assert client.get(callback).status_code == 400
        assert client.get("/me").json()["user_id"] == SUBJECT


def test_refused_at_provider(provider: Provider, options: Options, records: Records) -> None:
    """A login that the provider refuses leaves the visitor's session as it was."""
    shop = Shop(provider, options())
    with browser(shop) as client:
        client.post("/cart")
        token = client.cookies[HTTPS.cookie]
        answer = client.get("/callback/idp?error=access_denied&error_description=no")
        assert answer.status_code == 400
        assert client.cookies[HTTPS.cookie] == token
    assert records.read(token) == {"cart": {"apples": 3, "weights": [0.1, 2.5]}}


def test_two_providers_in_two_tabs(provider: Provider, options: Options) -> None:
    """Logins begun at two providers at once don't disturb each other."""
    shop = Shop(provider, options())
    with browser(shop) as client:
        one = client.get("/login/idp").headers["location"]
        other = client.get("/login/plain").headers["location"]
        assert client.get(at_provider(provider, other)).status_code == 303
        assert client.get(at_provider(provider, one)).status_code == 303


def test_form_post_callback(provider: Provider, options: Options) -> None:
    """A provider that answers by a cross-site POST signs in, given same_site="none" and trust."""
    shop = Shop(provider, options(same_site="none", trusted_origins=[ISSUER]))
    with browser(shop) as client:
        started = client.get("/login/idp")
        assert "samesite=none; secure" in started.headers["set-cookie"]
        answer = query(at_provider(provider, started.headers["location"]))
        posted = client.post(
            "/callback/idp",
            data=answer,
            headers={"Sec-Fetch-Site": "cross-site", "Origin": ISSUER},
        )
        assert posted.status_code == 303
        assert client.get("/me").json()["user_id"] == SUBJECT


def test_sign_out_at_the_provider(provider: Provider, options: Options, records: Records) -> None:
    """Signing out ends the session at once; the way to the provider and back has a new one."""
    shop = Shop(provider, options())
    with browser(shop) as client:
        sign_in(provider, client)
        signed_in = client.cookies[HTTPS.cookie]
        to_provider = client.get("/logout").headers["location"]
        away = client.cookies[HTTPS.cookie]
        assert records.read(signed_in) is None
        assert records.ids() == {id_of(away)}
        back = client.get(at_provider(provider, to_provider))
        assert back.json() == {"post_logout_redirect_uri": "https://testserver/goodbye"}
        assert client.get("/me").json() == {}

"""An OpenID provider in one process with the tests: codes, PKCE, signed id tokens, sign-out."""

from __future__ import annotations

import hashlib
import os
import time
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

ISSUER: Final = "https://idp.example"
CLIENT_ID: Final = "interop"
CLIENT_SECRET: Final = "provider-knows-the-client-by-this"
SUBJECT: Final = "248289761001"


@dataclass(frozen=True)
class Grant:
    """What a code stands for, until it is redeemed."""

    redirect_uri: str
    scope: str
    nonce: str | None
    challenge: str | None


class Provider:
    """Everybody who comes is the same user, and signs in at once. `app` is its ASGI side."""

    def __init__(self, issuer: str = ISSUER) -> None:
        self._issuer = issuer
        self.renew_key("1")
        self.sid: str | None = None
        """The provider's session in which the next one signs in."""
        self._codes: dict[str, Grant] = {}
        self._tokens: set[str] = set()
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.configuration),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
                Route("/userinfo", self.userinfo),
                Route("/jwks", self.jwks),
                Route("/logout", self.logout),
            ]
        )

    def renew_key(self, kid: str) -> None:
        """Sign with a new key from now on, and publish it alone."""
        self.key = RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})

    def logout_token(self, claims: dict[str, Any], typ: str = "JWT") -> str:
        """These claims, signed, as they are posted to clients (Back-Channel Logout 1.0)."""
        return jwt.encode({"alg": "RS256", "kid": self.key.kid, "typ": typ}, claims, self.key)

    async def configuration(self, request: Request) -> Response:
        endpoints = {
            "authorization_endpoint": "authorize",
            "token_endpoint": "token",
            "userinfo_endpoint": "userinfo",
            "jwks_uri": "jwks",
            "end_session_endpoint": "logout",
        }
        return JSONResponse(
            {
                "issuer": self._issuer,
                **{name: f"{self._issuer}/{path}" for name, path in endpoints.items()},
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def authorize(self, request: Request) -> Response:
        asked = request.query_params
        if asked["client_id"] != CLIENT_ID or asked["response_type"] != "code":
            raise HTTPException(400)
        code = token_urlsafe()
        self._codes[code] = Grant(
            asked["redirect_uri"],
            asked.get("scope", ""),
            asked.get("nonce"),
            asked.get("code_challenge"),
        )
        answer = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{answer}", 302)

    async def token(self, request: Request) -> Response:
        kind, _, credentials = request.headers["authorization"].partition(" ")
        if (kind, b64decode(credentials).decode()) != ("Basic", f"{CLIENT_ID}:{CLIENT_SECRET}"):
            raise HTTPException(401)
        form = await request.form()
        grant = self._codes.pop(str(form["code"]))  # once
        if form["redirect_uri"] != grant.redirect_uri:
            raise HTTPException(400)
        if grant.challenge is not None:
            digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
            if urlsafe_b64encode(digest).rstrip(b"=").decode() != grant.challenge:
                raise HTTPException(400)
        access_token = token_urlsafe()
        self._tokens.add(access_token)
        answer: dict[str, Any] = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": grant.scope,
        }
        if "openid" in grant.scope.split():
            answer["id_token"] = self._id_token(grant)
        return JSONResponse(answer)

    async def userinfo(self, request: Request) -> Response:
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self._tokens:
            raise HTTPException(401)
        return JSONResponse({"sub": SUBJECT, "name": "Jane Doe"})

    async def jwks(self, request: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def logout(self, request: Request) -> Response:
        asked = request.query_params
        answer = urlencode({"state": asked["state"]})
        return RedirectResponse(f"{asked['post_logout_redirect_uri']}?{answer}", 302)

    def _id_token(self, grant: Grant) -> str:
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "sub": SUBJECT,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 600,
            "nonce": grant.nonce,
            "name": "Jane Doe",
            "address": {"country": "IS", "locality": "Höfn"},
        }
        if self.sid is not None:
            claims["sid"] = self.sid
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)


def query(url: str) -> dict[str, str]:
    """A URL's parameters."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def local() -> Starlette:
    """What examples/oauth/run starts, where there is no other provider."""
    return Provider(os.environ["ISSUER"]).app

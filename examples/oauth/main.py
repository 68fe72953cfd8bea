"""A site whose users sign in at an OpenID provider, with Authlib."""

import os
from html import escape
from typing import Annotated

from authlib.integrations.starlette_client import OAuth, OAuthError
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from redis_sessions import SessionMiddleware, safe_next
from redis_sessions.fastapi import (
    OptionalPrincipalDep,
    SessionDep,
    SessionManagerDep,
    login_required,
)

ISSUER = os.environ.get("ISSUER", "https://accounts.google.com")

oauth = OAuth()
oauth.register(
    "idp",
    client_id=os.environ["CLIENT_ID"],
    client_secret=os.environ["CLIENT_SECRET"],
    server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
    client_kwargs={"scope": "openid profile", "code_challenge_method": "S256"},
)

app = FastAPI(default_response_class=HTMLResponse)
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
)

UserDep = Annotated[str, Depends(login_required("/login"))]


def page(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><title>OAuth</title>'
        f'<meta name="viewport" content="width=device-width"><main>{body}</main>'
    )


def button(action: str, text: str) -> str:
    return f'<form method="post" action="{action}"><button>{escape(text)}</button></form>'


@app.get("/")
async def home(user: OptionalPrincipalDep) -> str:
    if user is None:
        return page('<a href="/login">Sign in</a>')
    return page('<a href="/account">Your account</a>' + button("/logout", "Sign out"))


@app.get("/login")
async def login(request: Request, session: SessionDep) -> RedirectResponse:
    session["next"] = safe_next(request)  # Authlib keeps state, nonce and PKCE verifier beside it
    callback = request.url_for("callback")
    response: RedirectResponse = await oauth.idp.authorize_redirect(request, callback)
    return response


@app.get("/callback")
async def callback(request: Request, session: SessionDep) -> RedirectResponse:
    try:
        token = await oauth.idp.authorize_access_token(request)
    except OAuthError:  # refused there, begun in another browser, or loaded a second time
        return RedirectResponse("/refused", 303)
    claims = token["userinfo"]
    back = session.pop("next", "/")
    # `sub` is a name for ever at this issuer. An address or a name may be somebody else's later.
    session.sign_in(claims["sub"], methods=claims.get("amr", ()))
    session["name"] = claims.get("name", "you")
    return RedirectResponse(back, 303)


@app.get("/refused")
async def refused() -> str:
    return page('<p role="alert">You weren\'t signed in.</p><a href="/login">Try again</a>')


@app.get("/account")
async def account(user: UserDep, session: SessionDep, manager: SessionManagerDep) -> str:
    devices = len(await manager.sessions_of(user))
    return page(
        f"<h1>{escape(session['name'])}</h1><p>Devices: {devices}</p>"
        + button("/logout", "Sign out")
        + button("/logout-everywhere", "Sign out everywhere")
    )


@app.post("/logout")
async def logout(session: SessionDep) -> RedirectResponse:
    session.clear()  # here; at the provider the user is still signed in
    return RedirectResponse("/", 303)


@app.post("/logout-everywhere")
async def logout_everywhere(user: UserDep, manager: SessionManagerDep) -> RedirectResponse:
    await manager.revoke_all(user)
    return RedirectResponse("/", 303)

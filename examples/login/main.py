"""A site with a sign-in form, a page of devices, and a sign-out everywhere."""

import asyncio
import os
from datetime import timedelta
from hashlib import scrypt
from hmac import compare_digest
from html import escape
from typing import Annotated

from fastapi import Depends, FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from redis_sessions import SessionMiddleware, safe_next
from redis_sessions.fastapi import SessionDep, SessionManagerDep, login_required

app = FastAPI(default_response_class=HTMLResponse)
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
    max_age=None,  # the cookie goes with the browser, unless the user is to be remembered
    idle_timeout=timedelta(hours=2),
)

UserDep = Annotated[str, Depends(login_required("/login"))]


def hashed(password: str, salt: bytes) -> bytes:
    return scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


SALT = os.urandom(16)  # in a database, one for each user
PASSWORDS = {"ada": hashed("engine", SALT), "bob": hashed("builder", SALT)}


async def is_right(name: str, password: str) -> bool:
    found = await asyncio.to_thread(hashed, password, SALT)  # also for an unknown name
    return compare_digest(found, PASSWORDS.get(name, b""))


def page(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><title>Login</title>'
        f'<meta name="viewport" content="width=device-width"><main>{body}</main>'
    )


def button(action: str, text: str, id: str = "") -> str:
    field = f'<input type="hidden" name="id" value="{escape(id)}">' if id else ""
    return f'<form method="post" action="{action}">{field}<button>{escape(text)}</button></form>'


@app.get("/")
async def home(user: UserDep) -> str:
    return page(
        f'<h1>Hello, {escape(user)}</h1><a href="/devices">Devices</a>'
        + button("/logout", "Sign out")
    )


@app.get("/login")
async def login_page(wrong: bool = False) -> str:
    return page(
        f'<h1>Sign in</h1><p role="alert">{"Wrong name or password." if wrong else ""}</p>'
        '<form method="post"><label>Name <input name="name" autocomplete="username"></label>'
        '<label>Password <input name="password" type="password" autocomplete="current-password">'
        '</label><label><input name="remember" type="checkbox" value="yes"> Remember me</label>'
        "<button>Sign in</button></form>"  # no action: it is posted to this address, with its next
    )


@app.post("/login")
async def login(
    request: Request,
    session: SessionDep,
    name: Annotated[str, Form()],
    password: Annotated[str, Form()],
    remember: Annotated[bool, Form()] = False,
) -> RedirectResponse:
    if not await is_right(name, password):
        return RedirectResponse(request.url.include_query_params(wrong=1), 303)
    session.sign_in(name, methods=["pwd"])
    if remember:
        session.expire_in(timedelta(days=90), persistent=True)
    return RedirectResponse(safe_next(request), 303)


@app.get("/devices")
async def devices(user: UserDep, manager: SessionManagerDep) -> str:
    rows = "".join(
        f"<li>{escape(info.browser or 'a browser')} on {escape(info.system or 'a device')}, "
        f"seen {info.last_seen_at:%d %b %H:%M} UTC"
        + (" (this one)" if info.current else button("/devices/end", "Sign out", info.id))
        for info in await manager.sessions_of(user)
    )
    return page(
        f"<h1>Devices</h1><ul>{rows}</ul>{button('/logout-everywhere', 'Sign out everywhere')}"
        '<a href="/">Back</a>'
    )


@app.post("/devices/end")
async def end(
    user: UserDep, manager: SessionManagerDep, id: Annotated[str, Form()]
) -> RedirectResponse:
    await manager.revoke(id, principal=user)  # only one of this user's
    return RedirectResponse("/devices", 303)


@app.post("/logout")
async def logout(session: SessionDep) -> RedirectResponse:
    session.clear()
    return RedirectResponse("/login", 303)


@app.post("/logout-everywhere")
async def logout_everywhere(user: UserDep, manager: SessionManagerDep) -> RedirectResponse:
    await manager.revoke_all(user)
    return RedirectResponse("/login", 303)

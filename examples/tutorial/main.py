"""A site with sign-in, devices and roles: what docs/tutorial/ builds."""

import asyncio
import os
from dataclasses import dataclass
from hashlib import scrypt
from hmac import compare_digest
from html import escape
from typing import Annotated

from fastapi import Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from redis_sessions import SessionMiddleware, safe_next
from redis_sessions.fastapi import SessionDep, SessionManagerDep, login_required

app = FastAPI(default_response_class=HTMLResponse)
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
)

UserDep = Annotated[str, Depends(login_required("/login"))]


def hashed(password: str, salt: bytes) -> bytes:
    return scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


@dataclass
class User:
    salt: bytes
    hash: bytes
    role: str


def new_user(password: str, role: str) -> User:
    salt = os.urandom(16)
    return User(salt, hashed(password, salt), role)


USERS = {"ada": new_user("engine", "admin"), "bob": new_user("builder", "member")}
NOBODY = User(b"", b"", "")


async def is_right(name: str, password: str) -> bool:
    user = USERS.get(name, NOBODY)  # an unknown name takes as long as a known one
    found = await asyncio.to_thread(hashed, password, user.salt)
    return compare_digest(found, user.hash)


def page(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><title>Tutorial</title>'
        f'<meta name="viewport" content="width=device-width"><main>{body}</main>'
    )


def button(action: str, text: str, **fields: str) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in fields.items()
    )
    return f'<form method="post" action="{action}">{hidden}<button>{escape(text)}</button></form>'


@app.get("/")
async def home(session: SessionDep) -> str:
    session["visits"] = session.get("visits", 0) + 1
    return page(f'<p>Visits: {session["visits"]}</p><a href="/account">Your account</a>')


@app.get("/login")
async def login_page(wrong: bool = False) -> str:
    return page(
        f"<p>{'Wrong name or password.' if wrong else ''}</p>"
        '<form method="post"><label>Name <input name="name" autocomplete="username"></label>'
        '<label>Password <input name="password" type="password" autocomplete="current-password">'
        "</label><button>Sign in</button></form>"
    )


@app.post("/login")
async def login(
    request: Request,
    session: SessionDep,
    name: Annotated[str, Form()],
    password: Annotated[str, Form()],
) -> RedirectResponse:
    if not await is_right(name, password):
        return RedirectResponse(request.url.include_query_params(wrong=1), 303)
    session.sign_in(name, methods=["pwd"])
    return RedirectResponse(safe_next(request), 303)


@app.get("/account")
async def account(user: UserDep, manager: SessionManagerDep) -> str:
    rows = "".join(
        f"<li>{escape(info.browser or 'a browser')}, seen {info.last_seen_at:%H:%M}"
        + (" (this one)" if info.current else button("/revoke", "Sign out", id=info.id))
        for info in await manager.sessions_of(user)
    )
    return page(f"<h1>{escape(user)}</h1><ul>{rows}</ul>{button('/logout', 'Sign out')}")


@app.post("/revoke")
async def revoke(
    user: UserDep, manager: SessionManagerDep, id: Annotated[str, Form()]
) -> RedirectResponse:
    await manager.revoke(id, principal=user)
    return RedirectResponse("/account", 303)


@app.post("/logout")
async def logout(session: SessionDep) -> RedirectResponse:
    session.clear()
    return RedirectResponse("/", 303)


def administrator(user: UserDep) -> str:
    if USERS.get(user, NOBODY).role != "admin":
        raise HTTPException(403)
    return user


AdminDep = Annotated[str, Depends(administrator)]


@app.get("/admin")
async def admin(_: AdminDep) -> str:
    rows = "".join(
        f"<li>{escape(name)}, {escape(user.role)}"
        + button("/admin/block", "Sign out everywhere", name=name)
        for name, user in USERS.items()
    )
    return page(f"<h1>Users</h1><ul>{rows}</ul>")


@app.post("/admin/block")
async def block(
    _: AdminDep, manager: SessionManagerDep, name: Annotated[str, Form()]
) -> RedirectResponse:
    await manager.revoke_all(name)
    return RedirectResponse("/admin", 303)

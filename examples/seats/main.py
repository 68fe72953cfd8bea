"""Seats that are reserved for a session, and free again when it runs out unused."""

import os
from html import escape
from typing import Annotated

from fastapi import Depends, FastAPI, Form
from fastapi.responses import HTMLResponse, RedirectResponse

from redis_sessions import Expired, Session, SessionMiddleware
from redis_sessions.fastapi import SessionDep, login_required

PASSWORDS = {"ada": "engine", "bob": "builder"}  # your database, which keeps slow hashes
SEATS: dict[str, str | None] = dict.fromkeys(("A1", "A2", "B1", "B2"))
"""Your database: which session has reserved which seat."""


def release(id: str | None) -> None:
    for seat, holder in SEATS.items():
        if holder == id:
            SEATS[seat] = None


async def on_expired(expired: Expired) -> None:
    """It may be called twice for one session, which does no harm here."""
    release(expired.id)


app = FastAPI(default_response_class=HTMLResponse)
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
    idle_timeout=int(os.environ.get("IDLE_TIMEOUT", "30")),
    on_expired=on_expired,
)

UserDep = Annotated[str, Depends(login_required("/login"))]


def page(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><title>Seats</title>'
        f'<meta name="viewport" content="width=device-width"><main>{body}</main>'
    )


def row(seat: str, holder: str | None, session: Session) -> str:
    if holder is None:
        return (
            f'<li>{seat} <form method="post" action="/seats/{seat}"><button>Reserve</button></form>'
        )
    return f"<li>{seat}: {'yours' if holder == session.id else 'taken'}"


@app.get("/")
async def seats(user: UserDep, session: SessionDep) -> str:
    rows = "".join(row(seat, holder, session) for seat, holder in SEATS.items())
    return page(
        f"<h1>Hello, {escape(user)}</h1><ul>{rows}</ul>"
        '<form method="post" action="/logout"><button>Sign out</button></form>'
    )


@app.post("/seats/{seat}", dependencies=[Depends(login_required("/login"))])
async def reserve(seat: str, session: SessionDep) -> RedirectResponse:
    if seat in SEATS and SEATS[seat] is None:
        SEATS[seat] = session.id
    return RedirectResponse("/", 303)


@app.get("/login")
async def login_page() -> str:
    return page(
        '<form method="post">'
        '<label>Name <input name="name" autocomplete="username" autofocus></label>'
        '<label>Password <input name="password" type="password" autocomplete="current-password">'
        "</label><button>Sign in</button></form>"
    )


@app.post("/login")
async def login(
    name: Annotated[str, Form()], password: Annotated[str, Form()], session: SessionDep
) -> RedirectResponse:
    if PASSWORDS.get(name) != password:
        return RedirectResponse("/login", 303)
    session.sign_in(name)
    return RedirectResponse("/", 303)


@app.post("/logout")
async def logout(session: SessionDep) -> RedirectResponse:
    release(session.id)
    session.clear()
    return RedirectResponse("/login", 303)

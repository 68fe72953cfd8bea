"""The user's row from the cache: the database is asked once a minute, and not at each request."""

import asyncio
import os
import sqlite3
from dataclasses import dataclass
from html import escape
from typing import Annotated

from fastapi import Depends, FastAPI, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from redis_sessions import SessionMiddleware
from redis_sessions.fastapi import CacheDep, SessionDep, login_required

app = FastAPI(default_response_class=HTMLResponse)
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
)

database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
database.execute("CREATE TABLE users (name TEXT PRIMARY KEY, password TEXT, role TEXT)")
database.executemany(  # with slow hashes instead of passwords, in your database
    "INSERT INTO users VALUES (?, ?, ?)",
    [("ada", "engine", "admin"), ("bob", "builder", "reader")],
)
questions = 0


async def query(sql: str, *values: str) -> tuple[str, ...] | None:
    global questions  # noqa: PLW0603 - the page shows how many there were
    questions += 1
    row: tuple[str, ...] | None = await asyncio.to_thread(
        lambda: database.execute(sql, values).fetchone()
    )
    return row


@dataclass
class User:
    name: str
    role: str


async def user_row(
    name: Annotated[str, Depends(login_required("/login"))], cache: CacheDep
) -> User:
    async def load() -> User | None:
        row = await query("SELECT name, role FROM users WHERE name = ?", name)
        return None if row is None else User(*row)

    user = await cache.of_principal(name).get_or_set(
        "row", load, ttl=60, as_=User, negative_ttl=5, stale_if_error=600
    )
    if user is None:
        raise HTTPException(403, "This user was deleted")
    return user


UserDep = Annotated[User, Depends(user_row)]


def page(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><title>Cache</title>'
        f'<meta name="viewport" content="width=device-width"><main>{body}</main>'
    )


@app.get("/")
async def home(user: UserDep) -> str:
    return page(
        f"<h1>Hello, {escape(user.name)}</h1><p>Your role is {escape(user.role)}."
        f"<p>The database was asked {questions} times."
        '<form method="post" action="/role"><input name="name" value="bob" aria-label="Name">'
        '<input name="role" value="writer" aria-label="Role"><button>Set role</button></form>'
        '<form method="post" action="/logout"><button>Sign out</button></form>'
    )


@app.post("/role")
async def set_role(
    user: UserDep, cache: CacheDep, name: Annotated[str, Form()], role: Annotated[str, Form()]
) -> RedirectResponse:
    if user.role != "admin":
        raise HTTPException(403, "Only an admin sets roles")
    await query("UPDATE users SET role = ? WHERE name = ?", role, name)
    await cache.forget_principal(name)  # after the change: bob's next request has the new role
    return RedirectResponse("/", 303)


@app.get("/login")
async def login_page() -> str:
    return page(
        '<form method="post"><label>Name <input name="name" autocomplete="username"></label>'
        '<label>Password <input name="password" type="password" autocomplete="current-password">'
        "</label><button>Sign in</button></form>"
    )


@app.post("/login")
async def login(
    session: SessionDep, name: Annotated[str, Form()], password: Annotated[str, Form()]
) -> RedirectResponse:
    found = await query("SELECT name FROM users WHERE name = ? AND password = ?", name, password)
    if found is None:
        return RedirectResponse("/login", 303)
    session.sign_in(name)
    return RedirectResponse("/", 303)


@app.post("/logout")
async def logout(session: SessionDep) -> RedirectResponse:
    session.clear()
    return RedirectResponse("/login", 303)

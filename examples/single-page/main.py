"""A JSON API for a page with scripts: its own, and that of a front end on another origin."""

import asyncio
import os
from datetime import datetime
from hashlib import scrypt
from hmac import compare_digest
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from redis_sessions import SessionMiddleware
from redis_sessions.fastapi import PrincipalDep, SessionDep, SessionManagerDep

FRONT_ENDS = os.environ.get("FRONT_ENDS", "http://localhost:5173").split()

app = FastAPI()
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
    trusted_origins=FRONT_ENDS,  # whose requests have a session
)
app.add_middleware(
    CORSMiddleware,  # added last, so that the answers of the session's middleware have CORS, too
    allow_origins=FRONT_ENDS,  # who may read answers
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["content-type"],
)


def hashed(password: str) -> bytes:
    return scrypt(password.encode(), salt=SALT, n=2**14, r=8, p=1)


SALT = os.urandom(16)  # in a database, one for each user
PASSWORDS = {"ada": hashed("engine"), "bob": hashed("builder")}


class Credentials(BaseModel):
    name: str
    password: str


class Device(BaseModel):
    id: str  # it opens nothing
    this_one: bool
    browser: str | None
    seen: datetime


@app.post("/api/session")
async def sign_in(session: SessionDep, given: Credentials) -> str:
    found = await asyncio.to_thread(hashed, given.password)  # also for an unknown name
    if not compare_digest(found, PASSWORDS.get(given.name, b"")):
        raise HTTPException(403, "wrong name or password")
    session.sign_in(given.name, methods=["pwd"])
    return given.name  # the token isn't in the answer: it is in a cookie that no script can read


@app.delete("/api/session")
async def sign_out(session: SessionDep) -> None:
    session.clear()


@app.get("/api/me")
async def me(user: PrincipalDep) -> str:
    return user


@app.get("/api/cart")
async def cart(session: SessionDep) -> list[str]:
    items: list[str] = session.get("cart", [])
    return items


@app.post("/api/cart")
async def add(session: SessionDep, item: Annotated[str, Body(embed=True, max_length=80)]) -> None:
    session.setdefault("cart", []).append(item)


@app.get("/api/devices")
async def devices(user: PrincipalDep, manager: SessionManagerDep) -> list[Device]:
    return [
        Device(id=i.id, this_one=i.current, browser=i.browser, seen=i.last_seen_at)
        for i in await manager.sessions_of(user)
    ]


@app.delete("/api/devices/{id}")
async def end(id: str, user: PrincipalDep, manager: SessionManagerDep) -> bool:
    return await manager.revoke(id, principal=user)


app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))

"""FastHTML with our session, as docs/interop.md has it; served for one test.

python -m tests.interop.fasthtml_app STORE PREFIX
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import Any

import uvicorn

from redis_sessions import Session, SessionMiddleware
from tests.interop.serving import HTTP, SECRET

FastHTML: Any = import_module("fasthtml.common").FastHTML  # it carries no types

store, prefix = sys.argv[1:]
app = FastHTML(
    sess_cls=partial(SessionMiddleware, store=store, prefix=prefix),
    secret_key=SECRET,
    session_cookie=HTTP.cookie,
    sess_https_only=False,
)


def me(session: Session) -> str:
    """It reads `scope["session"]`, where nobody notes it."""
    return f"user {session.get('user_id')}, visits {session.get('visits', 0)}"


def visit(session: Session) -> str:
    session["visits"] = session.get("visits", 0) + 1
    return "seen"


def sign_in(session: Session, name: str) -> str:
    session["user_id"] = name
    return "in"


def sign_out(session: Session) -> str:
    session.clear()
    return "out"


app.get("/me")(me)
app.post("/visit")(visit)
app.post("/sign-in")(sign_in)
app.post("/sign-out")(sign_out)
uvicorn.run(app, port=0, access_log=False)

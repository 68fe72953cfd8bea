# ruff: noqa: INP001 - not a package: uvicorn finds it by its path
"""The application of deploy/compose/: counts visits, and signs in whoever says a name.

The environment has SESSION_SECRET_KEY and SESSION_STORE, the store's URL.
"""

import os
from typing import Annotated, Any

from fastapi import Body, FastAPI

from redis_sessions import SessionMiddleware
from redis_sessions.fastapi import PrincipalDep, SessionDep, SessionManagerDep


def create_app() -> FastAPI:
    """The application; it doesn't start if the environment hasn't what it needs."""
    app = FastAPI(title="redis-sessions")
    app.add_middleware(
        SessionMiddleware,
        secret_key=os.environ.get("SESSION_SECRET_KEY", ""),
        store=os.environ.get("SESSION_STORE", ""),
        lazy=True,  # /health asks Redis for nothing
        # For plain http on this machine. Leave them out behind TLS.
        session_cookie="session",
        https_only=False,
    )
    app.get("/health")(health)
    app.get("/")(visit)
    app.post("/sign-in")(sign_in)
    app.post("/sign-out")(sign_out)
    app.get("/sessions")(sessions)
    return app


async def health() -> str:
    """Whether the process serves: the store has a health check of its own."""
    return "ok"


async def visit(session: SessionDep) -> dict[str, Any]:
    """Count, signed in or not."""
    session["visits"] = session.get("visits", 0) + 1
    return dict(session)


async def sign_in(session: SessionDep, name: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
    """Whoever is signed in gets a new session id, and keeps the visits."""
    session.sign_in(name)
    return dict(session)


async def sign_out(session: SessionDep) -> None:
    """End the session."""
    session.clear()


async def sessions(user: PrincipalDep, manager: SessionManagerDep) -> int:
    """How many sessions the user has."""
    return len(await manager.sessions_of(user))

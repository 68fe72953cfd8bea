"""What each of several workers behind nginx serves: the same sessions."""

import os
from socket import gethostname
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request

from redis_sessions import SessionMiddleware
from redis_sessions.fastapi import PrincipalDep, SessionDep, SessionManagerDep

app = FastAPI()
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],  # the same in all workers
    lazy=True,  # /health asks Redis for nothing
    https_only="DEVELOPMENT" not in os.environ,
)


@app.get("/health")
async def health() -> str:
    return "ok"


@app.get("/")
async def visit(request: Request, session: SessionDep) -> dict[str, Any]:
    session["visits"] = session.get("visits", 0) + 1
    return {
        "visits": session["visits"],
        "worker": f"{gethostname()}:{os.getpid()}",
        "your address": request.client.host if request.client else None,
    }


@app.post("/sign-in")
async def sign_in(session: SessionDep, name: Annotated[str, Body(embed=True)]) -> None:
    session.sign_in(name)  # after you have checked a password


@app.get("/devices")
async def devices(user: PrincipalDep, manager: SessionManagerDep) -> list[str | None]:
    return [info.address for info in await manager.sessions_of(user)]

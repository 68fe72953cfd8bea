"""NiceGUI mounted in an application of ours, as docs/interop.md has it; served for one test.

python -m tests.interop.nicegui_app STORE PREFIX
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI, Request
from nicegui import app, ui

from redis_sessions import SessionMiddleware, get_session
from redis_sessions.fastapi import SessionDep
from tests.interop.serving import SECRET

store, prefix = sys.argv[1:]
outer = FastAPI()
outer.add_middleware(
    SessionMiddleware, store=store, prefix=prefix, secret_key=SECRET, https_only=False
)


@outer.get("/sign-in")
async def sign_in(session: SessionDep) -> str:
    session["user_id"] = "ann"
    return "signed in"


@outer.get("/me")
async def me(session: SessionDep) -> dict[str, str | int]:
    return dict(session)


@ui.page("/")
def page(request: Request) -> None:
    """Each click is an event handler: it comes over a socket, after the page's response."""
    app.storage.browser["seen"] = "here"

    async def click() -> None:
        ours = get_session(request)
        ours["clicks"] = ours.get("clicks", 0) + 1
        await ours.save()
        app.storage.user["clicks"] = app.storage.user.get("clicks", 0) + 1
        label.set_text(f"clicks {app.storage.user['clicks']}, {app.storage.browser['seen']}")

    label = ui.label(f"clicks {app.storage.user.get('clicks', 0)}")
    ui.button("click", on_click=click)


ui.run_with(outer, mount_path="/ui", storage_secret=SECRET)
uvicorn.run(outer, port=0, access_log=False)

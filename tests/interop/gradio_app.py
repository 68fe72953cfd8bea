"""Gradio mounted in an application of ours, with its `LoginButton`; served for one test.

python -m tests.interop.gradio_app STORE PREFIX
"""

from __future__ import annotations

import sys
from importlib import import_module
from threading import Event
from typing import Any

import uvicorn
from fastapi import FastAPI

from redis_sessions import SessionMiddleware
from redis_sessions.fastapi import SessionDep
from tests.interop.serving import SECRET

gradio: Any = import_module("gradio")  # its types are partial
oauth: Any = import_module("gradio.oauth")
# Outside of Hugging Face's Spaces it signs in whoever is signed in there on this machine.
oauth._get_mocked_oauth_info = lambda: {
    "access_token": "secret",
    "userinfo": dict.fromkeys(("name", "preferred_username", "profile", "picture"), "Ann"),
}

store, prefix = sys.argv[1:]
outer = FastAPI()
outer.add_middleware(
    SessionMiddleware, store=store, prefix=prefix, secret_key=SECRET, https_only=False
)
released = Event()


@outer.get("/sign-in")
async def sign_in(session: SessionDep) -> None:
    session["user_id"] = "bob"


@outer.get("/release")
async def release() -> None:
    released.set()


def greet(profile: Any) -> str:
    """One at a time: the second one's event waits in Gradio's queue, after its response."""
    assert released.wait(30)
    return "nobody" if profile is None else f"hello {profile.name}"


greet.__annotations__["profile"] = gradio.OAuthProfile | None

with gradio.Blocks() as blocks:
    gradio.LoginButton()
    gradio.Button("greet").click(greet, None, gradio.Textbox(), api_name="greet")

gradio.mount_gradio_app(outer, blocks, path="/ui")
uvicorn.run(outer, port=0, access_log=False)

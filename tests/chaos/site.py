"""The application under load: the real middleware over one store, asked by raw ASGI.

Each worker has a manager and a store of its own, as each process of a deployment does.
"""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    Event,
    Keyring,
    RedisStore,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from tests.support.asgi import COOKIE, ask, cookie

PREFIX: Final = "session:chaos:"


class Waits(NamedTuple):
    """For how many replicas the store waits, and whether ordinary changes wait, too."""

    replicas: int = 0
    every: bool = False

    def options(self) -> dict[str, Any]:
        """Arguments of `RedisStore`."""
        if not self.replicas:
            return {}
        return {"wait_replicas": self.replicas, "wait_for": "all" if self.every else "lifecycle"}


class Later:
    """The time, plus what the audit adds to it so that a touch is due."""

    shift = 0.0

    def __call__(self) -> float:
        return time.time() + self.shift


class Page(msgspec.Struct):
    """What the application says of the session as it found it; `owner` None: nobody's."""

    owner: int | None = None
    done: list[int] = []


class Reply(NamedTuple):
    """What a browser gets. `token`: None if it keeps its cookie, "" if it is to drop it."""

    status: int
    page: Page
    token: str | None
    unconfirmed: bool
    """Whether the application was told that too few replicas have what it says."""


class Worker:
    """One process' share of a deployment."""

    def __init__(self, url: str, keyring: Keyring, clock: Later, waits: Waits) -> None:
        self.store = RedisStore(url, prefix=PREFIX, **waits.options())
        self.manager = SessionManager(self.store, keyring, clock=clock, on_event=self._note)
        self._app = SessionMiddleware(self._handle, manager=self.manager)
        self._unconfirmed: set[str] = set()

    def _note(self, event: Event) -> None:
        if event.reason == "replication" and event.id is not None:
            self._unconfirmed.add(event.id)

    async def ask(self, action: str, number: int, token: str | None) -> Reply:
        """One request: `read`, `add`, `sign-in`, `sign-out`, `revoke` or `rotate`."""
        headers = [] if token is None else [(b"cookie", cookie(token))]
        answer = await ask(self._app, headers, path=f"/{action}/{number}", method="POST")
        status = answer.checked().status
        page = msgspec.msgpack.decode(answer.body, type=Page) if status < 400 else Page()
        sent = _sent(answer.headers)
        unconfirmed = bool(sent) and (sent or "")[:20] in self._unconfirmed
        self._unconfirmed.discard((sent or "")[:20])
        return Reply(status, page, sent, unconfirmed)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, action, number = scope["path"].split("/")
        session = get_session(HTTPConnection(scope))
        page = Page(session.get("owner"), session.get("done", []))
        if action == "sign-in":
            session.update(user_id=f"user {number}", owner=int(number), done=[])
        elif page.owner is not None:
            match action:
                case "add":
                    session["done"] = [*page.done, int(number)]
                case "sign-out":
                    session.clear()
                case "revoke":
                    await self.manager.revoke(session.id or "", principal=session["user_id"])
                case "rotate":
                    session.rotate()
                case _:
                    pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": msgspec.msgpack.encode(page)})


def _sent(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The value of the cookie that a response sets; "" if it expires it."""
    for name, value in headers:
        if name == b"set-cookie" and value.startswith(f"{COOKIE}=".encode()):
            token = value.decode().split(";")[0].split("=", 1)[1]
            return "" if token == "null" else token  # Starlette's word for none
    return None

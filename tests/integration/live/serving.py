"""An application with a WebSocket and a stream, whose sessions other requests end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from redis_sessions import SessionManager, get_session
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import Store
from redis_sessions.testing import store_session
from tests.support.apps import doing, manager_on

PATIENCE: Final = 20
"""Seconds after which a test fails that waits for what doesn't happen."""

REASON: Final = "the session has ended"


class Served:
    """The application, what its handlers have noted, and a manager on the same store elsewhere."""

    def __init__(self, store: Store, *, end_sockets: bool = True, **policy: Any) -> None:
        self.notes: list[str] = []
        self.elsewhere = manager_on(store, **policy)
        self.manager: SessionManager = manager_on(store, **policy)
        self.app: Starlette = doing(
            WebSocketRoute("/echo", self._echo),
            WebSocketRoute("/flood", self._flood),
            WebSocketRoute("/unwatched", self._unwatched),
            WebSocketRoute("/changes", self._changes),
            Route("/events", self._events),
            manager=self.manager,
            https_only=False,
            end_sockets=end_sockets,
        )

    async def begin(self) -> str:
        """The token of a new session of Alice's."""
        return await store_session(self.elsewhere, {"user_id": "alice"})

    async def _echo(self, socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)
        self.notes.append("left")

    async def _flood(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text("more")
                await asyncio.sleep(0)
        finally:
            self.notes.append("left")

    async def _unwatched(self, socket: WebSocket) -> None:
        get_session(socket, watch=False)
        await self._echo(socket)

    async def _changes(self, socket: WebSocket) -> None:
        session = get_session(socket)
        await socket.accept()
        async for keys in session.changes():
            await socket.send_json({key: session[key] for key in keys})
        self.notes.append("left")

    async def _events(self, _: Request) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            try:
                yield "data: 1\n\n"
                await asyncio.Event().wait()
            finally:
                self.notes.append("left")

        return StreamingResponse(events(), media_type="text/event-stream")


End = Callable[[SessionManager, str], Awaitable[object]]


async def sign_out(manager: SessionManager, token: str) -> None:
    session = await manager.load(token)
    session.sign_out()
    await manager.commit(session)


async def rotate(manager: SessionManager, token: str) -> None:
    session = await manager.load(token)
    session.rotate()
    await manager.commit(session)


async def revoke(manager: SessionManager, token: str) -> None:
    parsed = SessionToken.parse(token)
    assert parsed is not None
    assert await manager.revoke(parsed.id, "alice")


async def revoke_all(manager: SessionManager, token: str) -> None:
    assert await manager.revoke_all("alice") == 1


ENDS: list[End] = [sign_out, rotate, revoke, revoke_all]

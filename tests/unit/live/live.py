"""A setting whose sessions are ended by other requests while a connection is open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import MemoryStore, SessionMiddleware, SessionToken
from tests.unit.setting import ALICE, Setting

ACCEPT: Message = {"type": "websocket.accept"}
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}
CLOSED: Message = {"type": "websocket.close", "code": 1008, "reason": "the session has ended"}
GONE: Message = {"type": "websocket.disconnect", "code": 1008, "reason": "the session has ended"}
LAST: Message = {"type": "http.response.body", "body": b"", "more_body": False}

End = Callable[["Live", str], Awaitable[None]]


def part(text: str) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}


class Live(Setting):
    """A setting with a session of Alice's."""

    def app(self, app: ASGIApp, **options: Any) -> ASGIApp:
        return SessionMiddleware(app, manager=self.manager, **options)

    async def alice(self) -> str:
        """The token of her session."""
        return await self.begin(ALICE)

    def watchers(self) -> int:
        """How many registrations the store has."""
        return watchers(self.store)


def id_of(token: str) -> str:
    parsed = SessionToken.parse(token)
    assert parsed is not None
    return parsed.id


def watchers(store: MemoryStore) -> int:
    return sum(map(len, store._watchers.values()))  # pyright: ignore[reportPrivateUsage] - counts


async def sign_out(at: Live, token: str) -> None:
    await at.request(lambda session: session.sign_out(), token)


async def clear(at: Live, token: str) -> None:
    await at.request(lambda session: session.clear(), token)


async def rotate(at: Live, token: str) -> None:
    await at.request(lambda session: session.rotate(), token)


async def revoke(at: Live, token: str) -> None:
    (info,) = await at.manager.sessions_of("alice")
    assert await at.manager.revoke(info.id, "alice")


async def revoke_all(at: Live, token: str) -> None:
    assert await at.manager.revoke_all("alice") == 1


async def expire(at: Live, token: str) -> None:
    at.clock.advance(at.manager.policy.idle_timeout)
    assert await at.data(token) == {}  # who looks tells the store that its time is over


async def delete(at: Live, token: str) -> None:
    at.store.lose_record(id_of(token))


async def overwrite(at: Live, token: str) -> None:
    at.store.put_back(id_of(token), b"\xff" * 200, 60_000)


ENDS: dict[End, str] = {
    sign_out: "tombstone",
    clear: "tombstone",
    rotate: "authentication failed",
    revoke: "tombstone",
    revoke_all: "tombstone",
    expire: "unknown id",
    delete: "unknown id",
    overwrite: "unknown format",
}
"""All ways in which another request, or somebody in Redis, ends a session; and what is reported."""


class Talking:
    """A WebSocket that answers each message until its client has gone, and notes how it ended."""

    def __init__(self) -> None:
        self.left: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        self.left.append(message)

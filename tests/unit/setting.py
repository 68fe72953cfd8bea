"""A manager over a store in memory, and what the unit tests do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import (
    Answer,
    Event,
    Keyring,
    Session,
    SessionManager,
    SessionMiddleware,
    generate_key,
    get_session,
)
from redis_sessions.testing import Clock, read_session, store_session
from tests.support.asgi import Reply, ask, cookie
from tests.support.stores import UnreliableStore

KEY: Final = generate_key()
DAY: Final = 24 * 3600
DUE: Final = 301
"""Seconds after which a touch is due."""
ALICE: Final = {"user_id": "alice"}

START: Final[Message] = {"type": "http.response.start", "status": 200, "headers": []}

WHY = "not loaded, says the test"


class Setting:
    """A manager, its store, its clock and what it reported."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.store = UnreliableStore(clock=self.clock)
        self.manager = SessionManager(
            self.store,
            Keyring(KEY),
            clock=self.clock,
            on_event=self.events.append,
            **options,
        )

    async def begin(self, data: Mapping[str, Any]) -> str:
        """The token of a stored session."""
        return await store_session(self.manager, data)

    async def load(self, token: str | None) -> Session:
        return await self.manager.load(token)

    async def data(self, token: str | None) -> dict[str, Any]:
        return await read_session(self.manager, token)

    async def request(
        self,
        act: Callable[[Session], object],
        token: str | None = None,
        *,
        late: bool = False,
        headers: Sequence[tuple[bytes, bytes]] = (),
        **fields: Any,
    ) -> Reply:
        """A request whose handler does this with its session; `late`: after its response began."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if late:
                await send(START)
                await send({"type": "http.response.body", "body": b"", "more_body": True})
            done = act(get_session(HTTPConnection(scope)))
            if isawaitable(done):
                await done
            if not late:
                await send(START)
            await send({"type": "http.response.body", "body": b""})

        if token is not None:
            headers = [*headers, (b"cookie", cookie(token))]
        return await ask(SessionMiddleware(app, manager=self.manager), headers, **fields)

    async def put(self, token: str, changes: Mapping[str, Any]) -> Answer:
        """What another request stores."""
        session = await self.load(token)
        session.update(changes)
        return await self.commit(session)

    async def commit(self, session: Session, status: int = 200) -> Answer:
        return await self.manager.commit(session, status=status)

    def reported(self, name: str) -> list[str | None]:
        return [event.reason for event in self.events if event.name == name]


def token_of(answer: Answer) -> str:
    assert answer.token is not None
    return answer.token.value


def count(data: dict[str, Any]) -> int:
    data["n"] = data.get("n", 0) + 1
    return int(data["n"])


async def stored(manager: SessionManager, **data: Any) -> str:
    """The token of a session with these data."""
    session = await manager.load()
    session.update(data)
    answer = await manager.commit(session)
    assert answer.token is not None
    return answer.token.value

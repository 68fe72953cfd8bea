"""One request, its store in trouble, and every exception that anybody could have reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    Keyring,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionToken,
    generate_key,
    get_session,
)
from redis_sessions.testing import Clock, store_session
from tests.support.asgi import ask, cookie
from tests.support.stores import UnreliableStore
from tests.unit.tracebacks.shown import ours, shown

MARK: Final = "what-nobody-is-to-see"
KEY: Final = generate_key()

Act = Callable[[Session], Any]


class Visit:
    """A stored session and a request that brings its token."""

    def __init__(self, **policy: Any) -> None:
        self.clock = Clock()
        self.store = UnreliableStore(clock=self.clock)
        self.manager = SessionManager(self.store, Keyring(KEY), clock=self.clock, **policy)
        self.caught: list[BaseException] = []
        self.seen: list[str] = []
        self.token: str | None = None

    def catch(self, exc: BaseException) -> None:
        """Keep an exception, and what it shows where it is caught: further out it may show less."""
        self.caught.append(exc)
        self.seen.append(shown(exc))
        assert not ours(exc)

    async def begin(self, **data: Any) -> None:
        """Store a session with these data."""
        self.token = await store_session(self.manager, {"mark": MARK, **data})

    async def ask(
        self,
        act: Act,
        *,
        failing: Sequence[str] = (),
        status: int = 200,
        kind: str = "http",
        client_is_gone: bool = False,
        **middleware: Any,
    ) -> None:
        """Let the application do this with its session, and keep every exception."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                done = act(get_session(HTTPConnection(scope)))
                if done is not None:
                    await done
                if kind == "websocket":
                    await send({"type": "websocket.accept"})
                    return
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            except Exception as exc:
                self.catch(exc)
                raise

        headers = [(b"cookie", cookie(self.token))] if self.token else []
        served = SessionMiddleware(app, manager=self.manager, **middleware)
        self.store.failing = set(failing)
        reply = await ask(served, headers, kind=kind, client_is_gone=client_is_gone)
        if reply.error is not None:
            self.catch(reply.error)
        self.store.failing = set()

    def check(self, tokens: Sequence[SessionToken]) -> None:
        """Something was raised, and none of it shows a token, a record or what was in it."""
        assert self.caught
        check([*self.seen, *map(shown, self.caught)], tokens, self.store.given)


def check(seen: Sequence[str], tokens: Sequence[SessionToken], records: Sequence[bytes]) -> None:
    """None of what was seen has a token in it, a record or the mark."""
    secrets = [MARK, *(token.value[20:] for token in tokens)]
    secrets += [repr(record[33:53])[2:-1] for record in records if len(record) > 33]
    secrets += [json.dumps(secret)[1:-1] for secret in secrets]
    for line in "\n".join(seen).splitlines():
        assert not any(secret in line for secret in secrets), line


def recorded_tokens(monkeypatch: pytest.MonkeyPatch) -> list[SessionToken]:
    """A list to which each token that is drawn from now on is added."""
    drawn: list[SessionToken] = []
    generate = SessionToken.generate

    def recorded(id: str | None = None) -> SessionToken:
        drawn.append(generate(id))
        return drawn[-1]

    monkeypatch.setattr(SessionToken, "generate", recorded)
    return drawn

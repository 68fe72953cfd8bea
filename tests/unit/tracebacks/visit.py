"""One request, its store in trouble, and every exception that anybody could have reported."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import (
    Commit,
    Keyring,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionToken,
    StoreUnavailableError,
    Written,
    generate_key,
    get_session,
)
from redis_sessions.testing import Clock, store_session
from tests.unit.tracebacks.shown import ours, shown

MARK: Final = "what-nobody-is-to-see"
KEY: Final = generate_key()

Act = Callable[[Session], Any]


class Trouble(MemoryStore):
    """A store whose methods fail when they are told to. `seen`: all records that it was given."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.failing: set[str] = set()
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.seen: list[bytes] = []

    async def _may_fail(self, method: str) -> None:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        if method in self.failing:
            raise StoreUnavailableError(f"{method} fails, says the test")

    async def load(self, id: str) -> bytes | None:
        await self._may_fail("load")
        return await super().load(id)

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        self.seen.append(bytes(value))
        await self._may_fail("commit")
        return await super().commit(id, expected, value, ttl)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        await self._may_fail("end")
        return await super().end(id, tombstone, ttl)

    async def enter(self, *args: Any, **options: Any) -> Any:
        await self._may_fail("enter")
        return await super().enter(*args, **options)

    async def touch(self, *args: Any, **options: Any) -> Any:
        await self._may_fail("touch")
        return await super().touch(*args, **options)

    async def mark(self, *args: Any, **options: Any) -> Any:
        await self._may_fail("mark")
        return await super().mark(*args, **options)


class Visit:
    """A stored session and a request that brings its token."""

    def __init__(self, **policy: Any) -> None:
        self.clock = Clock()
        self.store = Trouble(self.clock)
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

        async def answer(message: Message) -> None:
            if client_is_gone:
                raise OSError("the client is gone, says the test")

        async def receive() -> Message:
            return {"type": "http.request"}

        header = (b"cookie", f"__Host-session={self.token}".encode())
        scope = {
            "type": kind,
            "method": "GET",
            "scheme": "https",
            "path": "/",
            "query_string": b"",
            "headers": [header] if self.token else [],
            "client": ("127.0.0.1", 1),
        }
        self.store.failing = set(failing)
        try:
            await SessionMiddleware(app, manager=self.manager, **middleware)(scope, receive, answer)
        except Exception as exc:  # noqa: BLE001 - whatever it is
            self.catch(exc)
        self.store.failing = set()

    def check(self, tokens: Sequence[SessionToken]) -> None:
        """Something was raised, and none of it shows a token, a record or what was in it."""
        assert self.caught
        check([*self.seen, *map(shown, self.caught)], tokens, self.store.seen)


def check(seen: Sequence[str], tokens: Sequence[SessionToken], records: Sequence[bytes]) -> None:
    """None of what was seen has a token in it, a record or the mark."""
    secrets = [MARK, *(token.value[20:] for token in tokens)]
    secrets += [repr(record[33:53])[2:-1] for record in records if len(record) > 33]
    secrets += [json.dumps(secret)[1:-1] for secret in secrets]
    for line in "\n".join(seen).splitlines():
        assert not any(secret in line for secret in secrets), line

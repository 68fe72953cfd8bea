"""Two processes over the same records, each with near copies of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import Event, Keyring, Session, SessionManager, SessionMiddleware, get_session
from redis_sessions.testing import Clock, store_session
from tests.support.asgi import COOKIE, Reply, ask
from tests.support.stores import NearStore
from tests.unit.setting import KEY, START

HINT: Final = f"{COOKIE}-fresh"

Act = Callable[[Session], object]


class Process:
    """A manager, its store with its near copies, and what it reported."""

    def __init__(self, store: NearStore, clock: Clock, **options: Any) -> None:
        self.store = store
        self.events = list[Event]()
        self.manager = SessionManager(
            store, Keyring(KEY), clock=clock, on_event=self.events.append, **options
        )

    async def visit(
        self, token: str, act: Act = dict, *, hint: str = "", **options: Any
    ) -> tuple[Any, Reply]:
        """A request whose handler does this with its session: what that returned, and the reply."""
        done = list[Any]()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            result = act(get_session(HTTPConnection(scope)))
            done.append(await result if isawaitable(result) else result)
            await send(START)
            await send({"type": "http.response.body", "body": b""})

        agent = options.pop("agent", b"")
        middleware = SessionMiddleware(app, manager=self.manager, **options)
        cookie = f"{COOKIE}={token}; {hint}"
        reply = await ask(middleware, [(b"cookie", cookie.encode()), (b"user-agent", agent)])
        return done[0] if done else None, reply.checked()

    async def asked(self, visit: Awaitable[tuple[Any, Reply]]) -> tuple[Any, int]:
        """What a request returned, and how many loads it asked the store for."""
        before = self.store.loads
        result, _ = await visit
        return result, self.store.loads - before


class Processes:
    """Two processes, and a clock for both."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        store = NearStore(clock=self.clock)
        self.here = Process(store, self.clock, **options)
        self.there = Process(store.beside(), self.clock, **options)

    async def begin(self, **data: Any) -> str:
        """A session that both processes have read: its token."""
        token = await store_session(self.here.manager, data)
        await self.here.manager.load(token)
        await self.there.manager.load(token)
        return token


def adding(**data: Any) -> Act:
    """A handler that sets these keys, and returns what was there."""

    def act(session: Session) -> dict[str, Any]:
        before = dict(session)
        session.update(data)
        return before

    return act


def hint_in(reply: Reply) -> str:
    """The hint as the browser sends it back."""
    (header,) = hints(reply)
    return header.partition(";")[0]


def hints(reply: Reply) -> list[str]:
    return [cookie for cookie in reply.cookies if cookie.startswith(HINT)]

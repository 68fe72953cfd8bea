"""An application behind the real middleware, whose one handler does what a test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from redis_sessions import (
    CookieTransport,
    Event,
    Keyring,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionToken,
    Store,
    Transport,
    get_session,
)
from tests.support.asgi import KEY, Reply, ask, cookie

KEYRING: Final = Keyring(KEY)


Act = Callable[[Session], Any]


class Site:
    """A Starlette application with one route, whose handler does what the test says."""

    def __init__(
        self,
        store: Store,
        *,
        keyring: Keyring = KEYRING,
        transport: Transport | None = None,
        **policy: Any,
    ) -> None:
        self.events: list[Event] = []
        self.store = store
        self.keyring = keyring
        policy.setdefault("on_event", self.events.append)
        self.manager = SessionManager(store, keyring, **policy)
        self._act: Act | None = None
        self._reply = Reply()
        self.app = Starlette(
            routes=[Route("/", self._serve, methods=["GET", "POST"])],
            middleware=[
                Middleware(
                    SessionMiddleware,
                    manager=self.manager,
                    transport=transport or CookieTransport(),
                )
            ],
        )

    async def _serve(self, request: Request) -> Response:
        session = get_session(request)
        self._reply.seen, self._reply.is_new = dict(session), session.is_new
        if self._act is not None:
            done = self._act(session)
            if isinstance(done, Awaitable):
                await done
        return PlainTextResponse("ok")

    async def visit(
        self,
        *cookies: bytes | SessionToken,
        act: Act | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Reply:
        """One request; each argument is a whole Cookie header, or a token for one."""
        self._act, self._reply = act, Reply()
        reply = await ask(
            self.app,
            [*((b"cookie", c if isinstance(c, bytes) else cookie(c)) for c in cookies), *headers],
        )
        reply.seen, reply.is_new = self._reply.seen, self._reply.is_new
        return reply

    async def store_session(self, data: dict[str, Any]) -> SessionToken:
        """A stored session with these data, through the application."""
        reply = await self.visit(act=lambda session: session.update(data))
        assert reply.error is None
        self.events.clear()
        self.manager.counts.clear()
        return reply.token


def assert_rejected(site: Site, reply: Reply, reason: str, id: str | None, times: int = 1) -> None:
    """It read as no session: nobody noticed but the counts and `on_event`, which names an id."""
    assert reply.error is None
    assert (reply.status, reply.seen, reply.is_new) == (200, {}, True)
    assert site.manager.counts["rejected"] == times
    assert site.manager.counts[f"rejected: {reason}"] == times
    rejected = [event for event in site.events if event.name == "rejected"]
    assert rejected == [Event("rejected", reason, id)] * times

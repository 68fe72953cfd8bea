"""A setting whose sessions come through the middleware, around one plain ASGI callable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import Keyring, Session, SessionManager, SessionMiddleware
from tests.support.asgi import COOKIE, Reply, ask, cookie
from tests.support.stores import UnreliableStore
from tests.unit.setting import KEY, Setting

BODY: Final[Message] = {"type": "http.response.body", "body": b"ok"}

Headers = Iterable[tuple[bytes, bytes]]
Act = Callable[[Session], object]


class Edge(Setting):
    """A setting, and what the client of the last request was sent, also while it is served."""

    def __init__(self, **policy: Any) -> None:
        super().__init__(**policy)
        self.away = UnreliableStore(clock=self.clock)
        self.store = self.away
        self.manager = SessionManager(
            self.store, Keyring(KEY), clock=self.clock, on_event=self.events.append, **policy
        )
        self.reply = Reply()
        self.when_sent: Callable[[Message], Awaitable[None]] | None = None

    async def serve(
        self,
        app: ASGIApp,
        token: str | None = None,
        *,
        headers: Headers = (),
        scope: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """A request with this token as its cookie. `scope`: what is unlike a plain GET."""
        self.reply = Reply()
        brought = [] if token is None else [(b"cookie", cookie(token))]
        await ask(
            SessionMiddleware(app, manager=self.manager, **options),
            [*brought, *headers],
            reply=self.reply,
            when_sent=self.when_sent,
            **(scope or {}),
        )
        self.reply.checked()

    @property
    def sent(self) -> list[Message]:
        return self.reply.messages

    @property
    def types(self) -> list[str]:
        """What kinds of message were sent."""
        return [message["type"].removeprefix("http.response.") for message in self.sent]

    @property
    def status(self) -> int:
        return self.reply.status

    def header(self, name: str) -> list[str]:
        """All values of one of the response's headers."""
        return [value.decode() for key, value in self.reply.headers if key.decode().lower() == name]

    @property
    def token(self) -> str | None:
        """What the response sets the cookie to; "null" where it expires it; None: neither."""
        cookies = [cookie.partition("=") for cookie in self.header("set-cookie")]
        return next((rest.partition(";")[0] for name, _, rest in cookies if name == COOKIE), None)


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def responding(act: Act = len, *headers: tuple[bytes, bytes], status: int = 200) -> ASGIApp:
    """An application that does this to its session, and then answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        act(scope["session"])
        await send(start(*headers, status=status))
        await send(BODY)

    return app


def sign_out(session: Session) -> None:
    """The principal's key is removed."""
    del session["user_id"]


def setting(**data: Any) -> Act:
    """What sets these keys."""
    return lambda session: session.update(data)

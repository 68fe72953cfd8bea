"""An application behind the real middleware, and seals around whatever a test wants.

It is asked by raw ASGI scopes, since some headers can't be sent by any client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from os import urandom
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_secretbox
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

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
from tests.support import sealing_key

SECRET: Final = "a secret key for the tests, long enough"
KEYRING: Final = Keyring(SECRET)
COOKIE: Final = "__Host-session"

examples: Final = settings(
    deadline=None,
    max_examples=60,
    # A prefix, a server: what the examples of one test may well share.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

Act = Callable[[Session], Any]


@dataclass(slots=True)
class Reply:
    """What the client, and the handler, saw."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    body: bytes = b""
    seen: dict[Any, Any] | None = None
    is_new: bool | None = None
    error: Exception | None = None

    @property
    def cookies(self) -> list[str]:
        return [value.decode() for name, value in self.headers if name == b"set-cookie"]

    @property
    def token(self) -> SessionToken:
        (cookie,) = self.cookies
        token = SessionToken.parse(cookie.split(";")[0].split("=", 1)[1])
        assert token is not None
        return token


async def ask(
    app: ASGIApp,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    path: str = "/",
    method: str = "GET",
    scheme: str = "https",
) -> Reply:
    """One request by raw ASGI; an exception of the application's ends up in `error`."""
    reply = Reply()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = list(message["headers"])
        else:
            reply.body += message.get("body", b"")

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 443),
    }
    try:
        await app(scope, receive, send)
    except Exception as exc:  # noqa: BLE001  # the test looks at it
        reply.error = exc
    return reply


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


def cookie(value: SessionToken | str, name: str = COOKIE) -> bytes:
    return f"{name}={value.value if isinstance(value, SessionToken) else value}".encode("latin-1")


def assert_rejected(site: Site, reply: Reply, reason: str, id: str | None, times: int = 1) -> None:
    """It read as no session: nobody noticed but the counts and `on_event`, which names an id."""
    assert reply.error is None
    assert (reply.status, reply.seen, reply.is_new) == (200, {}, True)
    assert site.manager.counts["rejected"] == times
    assert site.manager.counts[f"rejected: {reason}"] == times
    rejected = [event for event in site.events if event.name == "rejected"]
    assert rejected == [Event("rejected", reason, id)] * times


def forge(
    token: SessionToken,
    plain: bytes,
    *,
    prefix: str = "session:",
    keyring: Keyring = KEYRING,
    rotated_at: int = 0,
) -> bytes:
    """A valid seal around any plaintext, made as the design says rather than by the library."""
    context = b"\x01" + keyring.primary.id + rotated_at.to_bytes(4, "big")
    salt = blake2b(prefix.encode(), digest_size=16, person=b"rs-prefix").digest()
    nonce = urandom(24)
    key = sealing_key(keyring.primary, context, token.value, salt)
    return context + nonce + crypto_secretbox(plain, nonce, key)


def plaintext(data: bytes, now: float, **fields: Any) -> bytes:
    """A record's plaintext around these encoded data."""
    values: dict[str, Any] = {
        "created_at": int(now),
        "authenticated_at": None,
        "seen_at": int(now),
        "expires_at": int(now) + 3600,
        "idle": 3600,
        "persistent": True,
        "owner": None,
        "binding": None,
        **fields,
    }
    return msgspec.msgpack.encode([*values.values(), msgspec.Raw(data)])


# -- what MessagePack holds

texts: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    texts,
    st.binary(max_size=20),
    # astimezone() has no years before 1 or after 9999.
    st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001  # the strategy adds the zone
        max_value=datetime(9998, 12, 31),  # noqa: DTZ001
        timezones=st.timezones(),
    ),
)
storable: Final = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
datas: Final = st.dictionaries(texts, storable, max_size=5)

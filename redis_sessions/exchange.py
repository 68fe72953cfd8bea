"""One connection and its session: when it is committed, and what the client is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, cast

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions.errors import (
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.events import logger
from redis_sessions.manager import SessionManager
from redis_sessions.outcome import Answer, Outcome
from redis_sessions.session import Found, Session, Unloaded, load_into, state_of
from redis_sessions.transports import RawHeader, Transport

__all__ = ["Active", "Exchange", "OnUnavailable", "SocketExchange"]

OnUnavailable = (
    Literal["error", "anonymous"] | Callable[[HTTPConnection], Literal["error", "anonymous"]]
)

RETRY_AFTER: Final = "1"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_UNTOLD: Final = (Outcome.NOTHING, Outcome.TOUCH)


# Errors that a mounted application, too, answers with the right status: its own
# ServerErrorMiddleware would make a 500 of anything that isn't an HTTPException.


class _UnavailableError(StoreUnavailableError, HTTPException):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        headers = {"Retry-After": RETRY_AFTER}
        HTTPException.__init__(self, 503, "The session store is unavailable", headers)


class _ConflictError(SessionConflictError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 409, "The session was changed elsewhere")


class _GoneError(SessionGoneError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 409, "The session has ended")


_HttpError = _UnavailableError | _ConflictError | _GoneError


def as_http(error: SessionError) -> SessionError:
    """The error as one that carries its status, if it has one."""
    if isinstance(error, _HttpError):
        return error
    if isinstance(error, StoreUnavailableError):
        return _UnavailableError(error.reason)
    if isinstance(error, SessionConflictError):
        return _ConflictError()
    return _GoneError() if isinstance(error, SessionGoneError) else error


class Active:
    """The session of one connection, for those who ask the scope for it."""

    __slots__ = ("_on_unavailable", "_scope", "manager", "session", "tokens", "transport")

    session: Session

    def __init__(
        self,
        manager: SessionManager,
        transport: Transport,
        tokens: Sequence[str],
        on_unavailable: OnUnavailable,
        scope: Scope,
    ) -> None:
        self.manager, self.transport, self.tokens = manager, transport, tokens
        self._on_unavailable, self._scope = on_unavailable, scope

    def postpone(self) -> None:
        """A placeholder for now."""
        self._stand_in(
            SessionError(
                "the session isn't loaded (lazy=True): depend on SessionDep, or "
                "`await get_session(request).refresh()` first"
            )
        )

    async def load(self) -> None:
        """Load the session, unless it is there. A store that is away is told on first use."""
        placeholder = getattr(self, "session", None)
        if placeholder is not None and not isinstance(placeholder, Unloaded):
            return
        try:
            if placeholder is None:
                self.session = await self.manager.load(self.tokens)
                state_of(self.session).raised = as_http
            else:
                await self.manager.refresh(placeholder)
        except StoreError as exc:
            self._without(exc)

    def _without(self, why: StoreError) -> None:
        choice = self._on_unavailable
        if callable(choice):
            choice = choice(HTTPConnection(self._scope))
        if choice == "error":
            self._stand_in(why)
            return
        empty = self.manager.anonymous(why)
        state_of(empty).raised = as_http
        placeholder = getattr(self, "session", None)
        if placeholder is None:
            self.session = empty
        else:
            load_into(placeholder, empty, state_of(empty))

    def _stand_in(self, why: SessionError) -> None:
        placeholder = getattr(self, "session", None)
        if placeholder is None:
            self.session = self.manager.unloaded(self.tokens, why)
            state_of(self.session).raised = as_http
        else:
            state = state_of(placeholder)
            state.why, state.found = why, Found.UNAVAILABLE


class Exchange:
    """One HTTP request.

    Its response's start is held until the body begins, so that generators may still change the
    session; the commit ends before the start goes out.
    """

    accepts = "http.response.start"

    def __init__(self, active: Active, scope: Scope, send: Send) -> None:
        self._active = active
        self._scope = scope
        self._send = send
        self._held: Message | None = None
        self._started = False
        self._status = 500
        self._failure: SessionError | None = None

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Serve it, and commit what changed after the response had started."""
        try:
            await app(scope, receive, self._on_send)
            if self._failure is not None:
                raise self._failure  # the application has swallowed it
            await self._release()
            if self._started:
                await self._commit(self._status)
        except Exception as exc:
            failure = self._failure or _cause(exc)
            if self._started and self._failure is None:
                if not await self._handled_late(failure):
                    raise
                return
            if not isinstance(failure, StoreError):
                await self._end_all_the_same()
            told = None if failure is None else as_http(failure)
            if isinstance(told, _HttpError):
                await self._refuse(told)
            elif self._failure is not None:
                raise self._failure from self._failure.__cause__
            else:
                raise

    async def _on_send(self, message: Message) -> None:
        if self._failure is not None:
            raise self._failure  # the application goes on; its response can't
        if not self._started:
            if message["type"] == self.accepts:
                self._held = message
                self._status = message["status"]
                if _is_event_stream(message):
                    await self._release()
                return
            await self._release()
        await self._send(message)

    async def _release(self) -> None:
        """Commit, then let the start go, with what the client has to know."""
        if (held := self._held) is not None:
            self._held = None
            prepared = await self._prepared(held, self._status)
            self._begin()
            await self._send(prepared)

    def _begin(self) -> None:
        self._started = True
        state_of(self._active.session).late = True

    async def _prepared(self, message: Message, status: int) -> Message:
        try:
            answer = await self._commit(status)
        except SessionError as exc:
            self._failure = exc
            raise
        headers = self._headers(list(message.get("headers", ())), answer)
        return {**message, "headers": headers} if headers is not None else message

    async def _commit(self, status: int) -> Answer:
        return await self._active.manager.commit(
            self._active.session, status=status, may_create=self._may_create()
        )

    async def _end_all_the_same(self) -> None:
        """A sign-out holds whatever the response is, and this one will be a 500."""
        try:
            await self._commit(500)
        except Exception:  # noqa: BLE001 - the request's own exception is the one to raise
            logger.exception("sessions: what a failed request ended may not have ended")

    async def _handled_late(self, failure: SessionError | None) -> bool:
        """Whether an exception after the start is dealt with."""
        return False

    async def _refuse(self, told: _HttpError) -> None:
        body = told.detail.encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        headers += [(k.lower().encode(), v.encode()) for k, v in (told.headers or {}).items()]
        start = {"type": self.accepts, "status": told.status_code, "headers": headers}
        await self._send(start)
        await self._send({"type": self.accepts.replace("start", "body"), "body": body})

    def _may_create(self) -> bool:
        if self._scope.get("method", "GET") in _SAFE or self._active.transport.cross_site:
            return True
        headers = cast("list[RawHeader]", self._scope["headers"])
        return not any(
            name == b"sec-fetch-site" and site == b"cross-site" for name, site in headers
        )

    def _headers(self, headers: list[RawHeader], answer: Answer) -> list[RawHeader] | None:
        """The response's headers, or None where they stay as they are."""
        state, transport = state_of(self._active.session), self._active.transport
        told = answer.token is not None or answer.expire
        varies = state.accessed or answer.outcome not in _UNTOLD
        secret = told or state.found is Found.UNAVAILABLE
        if not (varies or secret):
            return None
        if answer.token is not None:
            headers.append(transport.send(answer.token.value, answer.max_age))
            self._warn_if_insecure()
        elif answer.expire:
            headers.append(transport.expire())
        if varies:
            _add_vary(headers, transport.vary)
        if secret:
            replaced = _forbid_storing(headers)
            if replaced:
                self._active.manager.report("cache_control_replaced", replaced)
        return headers

    def _warn_if_insecure(self) -> None:
        if self._active.transport.secure and self._scope.get("scheme") in ("http", "ws"):
            self._active.manager.warn_once(
                "insecure",
                "a Secure session cookie was sent over plain http, where most clients don't "
                "return it. In development write https_only=False; in tests "
                'TestClient(app, base_url="https://testserver"); behind a proxy that ends '
                "TLS, have the server trust its forwarded headers",
            )


class SocketExchange(Exchange):
    """One WebSocket: committed when it is accepted or denied, on `save()`, and at its end."""

    accepts = "websocket.http.response.start"

    def __init__(self, active: Active, scope: Scope, send: Send) -> None:
        super().__init__(active, scope, send)
        self._accepted = False
        self._refused = False
        self._closed = False

    async def _on_send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept" and self._failure is None:
            message = await self._prepared(message, 200)
            self._accepted, self._status = True, 200
            self._begin()
        elif kind == "websocket.close" and self._failure is None:
            self._closed = True
            if not self._started and self._held is None:
                self._status = 403  # which is how a server spells it, and no header goes along
                self._refused = True
                self._begin()
        elif kind.startswith("websocket.http.response") and not self._may_deny():
            await self._close()  # an error handler that answers a socket as if it were a request
            return
        await super()._on_send(message)

    async def _handled_late(self, failure: SessionError | None) -> bool:
        if not isinstance(failure, StoreUnavailableError):
            return False
        logger.error("sessions: a WebSocket was closed: %s", failure)
        await self._close()
        return True

    async def _refuse(self, told: _HttpError) -> None:
        if self._may_deny():
            await super()._refuse(told)
        else:
            await self._close()

    def _may_deny(self) -> bool:
        extensions: dict[str, object] = self._scope.get("extensions") or {}
        return not self._accepted and "websocket.http.response" in extensions

    def _may_create(self) -> bool:
        return not self._refused

    async def _close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._send({"type": "websocket.close", "code": 1013, "reason": "try again"})


def _cause(exc: BaseException | None) -> SessionError | None:
    """The error of ours in a chain of exceptions: frameworks wrap what they pass on."""
    seen = 0
    while exc is not None and seen < 16:
        if isinstance(exc, SessionError):
            return exc
        exc, seen = exc.__cause__, seen + 1
    return None


def _is_event_stream(message: Message) -> bool:
    headers = cast("list[RawHeader]", message.get("headers", ()))
    return any(
        name.lower() == b"content-type" and value.lower().startswith(b"text/event-stream")
        for name, value in headers
    )


def _add_vary(headers: list[RawHeader], name: str) -> None:
    for index, (header, value) in enumerate(headers):
        if header.lower() == b"vary":
            names = [part.strip().lower() for part in value.decode("latin-1").split(",")]
            if "*" not in names and name.lower() not in names:
                headers[index] = (header, value + b", " + name.encode())
            return
    headers.append((b"vary", name.encode()))


def _forbid_storing(headers: list[RawHeader]) -> str | None:
    """`Cache-Control: no-store`; the weaker policy that it replaced, if there was one."""
    old = [value for header, value in headers if header.lower() == b"cache-control"]
    if any(b"no-store" in value.lower() for value in old):
        return None
    headers[:] = [item for item in headers if item[0].lower() != b"cache-control"]
    headers.append((b"cache-control", b"no-store"))
    return b", ".join(old).decode("latin-1") or None

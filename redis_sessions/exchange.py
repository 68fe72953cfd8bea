"""One connection and its session: when it is committed, and what the client is told."""

from __future__ import annotations

from typing import Final, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from redis_sessions.active import Active, HttpError, as_http
from redis_sessions.errors import SessionError, StoreError, StoreUnavailableError
from redis_sessions.events import logger
from redis_sessions.headers import RawHeader, add_vary, forbid_storing, is_event_stream
from redis_sessions.outcome import Answer, Outcome
from redis_sessions.session import serving, state_of
from redis_sessions.state import Found

__all__ = ["Exchange", "SocketExchange"]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_UNTOLD: Final = (Outcome.NOTHING, Outcome.TOUCH)


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
        self._refused = False  # a WebSocket, without a word

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Serve it, and commit what changed after the response had started."""
        token = serving.set((*serving.get(), self._active.session))
        try:
            await self._run(app, scope, receive)
        finally:
            serving.reset(token)

    async def _run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, self._on_send)
            if self._failure is not None:
                raise self._failure  # the application has swallowed it
            await self._release()
            if self._started:
                await self._commit(self._status)
            else:
                await self._end_all_the_same()
        except Exception as exc:
            failure = self._failure or _ours(exc)
            if self._started and self._failure is None:
                await self._failed_late(exc, failure)
                return
            if not isinstance(failure, StoreError):
                await self._end_all_the_same()
            told = None if failure is None else as_http(failure)
            if isinstance(told, HttpError):
                await self._refuse(told)
            elif self._failure is not None:
                raise self._failure from self._failure.__cause__
            else:
                raise

    async def _on_send(self, message: Message) -> None:
        if self._failure is not None:
            raise self._failure  # the application goes on; its response can't
        if not self._started:
            if message["type"] == self.accepts and self._held is None:
                self._held = {**message, "headers": list(message.get("headers", ()))}
                self._status = message["status"]
                if is_event_stream(self._held["headers"]):
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
            if isinstance(exc, StoreUnavailableError):
                self._active.manager.report("unavailable", exc.reason)
            raise
        if self._refused:
            return message  # a plain close, which carries no headers
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

    async def _failed_late(self, exc: Exception, failure: SessionError | None) -> None:
        """An exception after the start: no data are stored, but what was ended has ended."""
        if not isinstance(failure, StoreError):
            await self._end_all_the_same()
        raise exc

    async def _refuse(self, told: HttpError) -> None:
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
            add_vary(headers, transport.vary)
        if secret and forbid_storing(headers):
            self._active.manager.report("cache_control_replaced")
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
                message = await self._prepared(message, 403)
        elif kind.startswith("websocket.http.response") and not self._may_deny():
            told = self._active.raised
            if told is not None:  # an error of ours, answered as if to a request
                await self._close(told)
                return
        await super()._on_send(message)

    async def _failed_late(self, exc: Exception, failure: SessionError | None) -> None:
        if isinstance(exc, WebSocketDisconnect):  # the client left, as clients do
            await self._commit(self._status)
        elif failure is not None:
            logger.error("sessions: a WebSocket was closed: %s", failure)
            await self._close(failure)
            return
        await super()._failed_late(exc, failure)

    async def _refuse(self, told: HttpError) -> None:
        if self._may_deny():
            await super()._refuse(told)
        else:
            await self._close(told)

    def _may_deny(self) -> bool:
        extensions: dict[str, object] = self._scope.get("extensions") or {}
        return not self._accepted and "websocket.http.response" in extensions

    def _may_create(self) -> bool:
        return not self._refused

    async def _close(self, why: SessionError) -> None:
        if not self._closed:
            self._closed = True
            again = isinstance(why, StoreUnavailableError)
            code, reason = (1013, "try again") if again else (1008, "the session has ended")
            await self._send({"type": "websocket.close", "code": code, "reason": reason})


def _ours(exc: BaseException) -> SessionError | None:
    """The exception if it is ours, also out of a task group; not what one of ours has caused."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return next(filter(None, map(_ours, group.exceptions)), None)
    return exc if isinstance(exc, SessionError) else None

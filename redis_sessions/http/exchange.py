"""One connection and its session: when it is committed, and what the client is told."""

from __future__ import annotations

from typing import Final, cast

from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from redis_sessions.errors import (
    ReplicationError,
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.events import logger
from redis_sessions.http.active import (
    Active,
    HttpError,
    as_http,
)
from redis_sessions.http.headers import RawHeader, add_vary, forbid_storing, is_event_stream
from redis_sessions.http.replaced import take_over
from redis_sessions.session.outcome import NOTHING, Answer, Outcome
from redis_sessions.session.session import state_of
from redis_sessions.session.state import UNAVAILABLE
from redis_sessions.tracebacks import strip, stripped

__all__ = ["Exchange", "SocketExchange"]

_BUG: Final = 1011, "internal error"
_CLOSING: Final = (
    ((StoreUnavailableError, ReplicationError, SessionConflictError), (1013, "try again")),
    ((SessionGoneError,), (1008, "the session has ended")),
)
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class Exchange(Active):
    """One HTTP request.

    Its response's start is held until the body begins, so that generators may still change the
    session; the commit ends before the start goes out.
    """

    accepts = "http.response.start"

    _held: Message | None = None
    _headers: list[RawHeader]
    _started = False
    _status = 500
    _failure: SessionError | None = None
    _refused = False  # a WebSocket, without a word

    def is_finished(self) -> bool:
        """Whether the response has started, and nothing has changed since."""
        return (
            self._started
            and self._failure is None
            and self._scope.get("session") is self.session
            and self.setup.manager.owed(self.session, self._status) is None
        )

    async def finish(self) -> None:
        """Send what is held, and commit what changed after the response had started."""
        if self._failure is not None:
            raise self._failure  # the application has swallowed it
        if self._held is not None:
            await self._release(self._held)
        if not self._started:
            await self._end_all_the_same()
        else:
            await self._commit(self._status)

    async def fail(self, exc: Exception) -> None:
        """Answer for what the application, or a commit, has raised; or raise it again."""
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
            raise exc

    async def on_send(self, message: Message) -> None:
        """What the application gets as its `send`."""
        try:
            if self._failure is not None:
                raise self._failure  # the application goes on; its response can't
            if not self._started:
                held = self._held
                if held is None and message["type"] == self.accepts:
                    self._headers = headers = list(message.get("headers", ()))
                    self._status = message["status"]
                    if is_event_stream(headers):
                        await self._release(message)
                    else:
                        self._held = message
                    return
                if held is not None and self._scope.get("session") is not self.session:
                    await self._release(held)
                elif held is not None:
                    manager, answer = self.setup.manager, NOTHING
                    owed = manager.owed(self.session, self._status)
                    if owed is not None:
                        self._held = None
                        may_create = self._may_create()
                        try:  # not by `_release`, which is a coroutine more for all to go through
                            answer = await manager.settle(
                                self.session, owed, self._status, may_create
                            )
                        except SessionError as exc:
                            self._fails(exc)
                            raise
                    await self._send(self._start(held, answer))
            await self._send(message)
        except BaseException as exc:
            strip(exc)
            raise

    async def _release(self, held: Message) -> None:
        """Commit, then let the start go, with what the client has to know."""
        self._held = None
        answer = await self._answer(self._status)
        await self._send(self._start(held, answer))

    async def _answer(self, status: int) -> Answer:
        """Commit before anything has gone out: a failure is the response's."""
        try:
            return await self._commit(status)
        except SessionError as exc:
            self._fails(exc)
            raise

    def _start(self, message: Message, answer: Answer) -> Message:
        """A response's first message, with what the client is told about its session."""
        state, headers = state_of(self.session), self._headers
        self._started = state.late = True
        self._held = None
        # What a token opened may also be read from the scope, which nothing notes.
        if state.accessed or state.stored is not None or answer is not NOTHING:
            add_vary(headers, self.setup.vary)
        if answer is not NOTHING:
            self._tell(answer, headers)
        if state.found is UNAVAILABLE:
            self._forbid_storing(headers)
        if self.setup.hints and self._has_written(answer):
            cookie = self.hint_cookie()
            if cookie is not None:
                headers.append(cookie.hint())
        return {**message, "headers": headers}

    def _has_written(self, answer: Answer) -> bool:
        """Whether a replica that lags would show this browser an older session."""
        stored = state_of(self.session).stored
        new = stored is not None and stored is not self.loaded
        return new and answer.outcome is not Outcome.TOUCH

    def _tell(self, answer: Answer, headers: list[RawHeader]) -> None:
        if answer.token is not None:
            headers.append(self.transport.send(answer.token.value, answer.max_age))
            self._warn_if_insecure()
        elif answer.expire:
            headers.append(self.transport.expire())
        else:
            return
        self._forbid_storing(headers)

    def _forbid_storing(self, headers: list[RawHeader]) -> None:
        if forbid_storing(headers):
            self.manager.report("cache_control_replaced")

    def _fails(self, exc: SessionError) -> None:
        """A commit's failure is the response's."""
        self._failure = exc
        if isinstance(exc, (StoreUnavailableError, ReplicationError)):
            self.manager.report("unavailable", exc.reason)

    async def _commit(self, status: int) -> Answer:
        if self._failure is None and self._scope.get("session") is not self.session:
            take_over(self._scope, self.session, self.manager)
        return await self.manager.commit(self.session, status=status, may_create=self._may_create())

    async def _end_all_the_same(self) -> None:
        """A sign-out holds whatever the response is, and this one will be a 500."""
        state_of(self.session).late = True  # which isn't ours, and tells the browser nothing
        try:
            await self._commit(500)
        except Exception as exc:  # noqa: BLE001 - the request's own exception is the one to raise
            strip(exc)
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
        if self._scope.get("method", "GET") in _SAFE or self.transport.cross_site:
            return True
        headers = cast("list[RawHeader]", self._scope["headers"])
        return not any(
            name == b"sec-fetch-site" and site == b"cross-site" for name, site in headers
        )

    def _warn_if_insecure(self) -> None:
        if self.transport.secure and self._scope.get("scheme") in ("http", "ws"):
            self.manager.warn_once(
                "insecure",
                "a Secure session cookie was sent over plain http, where most clients don't "
                "return it. In development write https_only=False; in tests "
                'TestClient(app, base_url="https://testserver"); behind a proxy that ends '
                "TLS, have the server trust its forwarded headers",
            )


class SocketExchange(Exchange):
    """One WebSocket: committed when it is accepted or denied, on `save()`, and at its end."""

    accepts = "websocket.http.response.start"

    _accepted = False
    _closed = False

    @stripped
    async def on_send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept" and self._failure is None:
            self._headers = list(message.get("headers", ()))
            answer = await self._answer(200)
            self._accepted, self._status = True, 200
            message = self._start(message, answer)
        elif kind == "websocket.close" and self._failure is None:
            if not self._started and self._held is None:
                self._status = 403  # which is how a server spells it, and no header goes along
                self._refused = True
                self._started = state_of(self.session).late = True
                await self._answer(403)
            self._closed = True
        elif kind.startswith("websocket.http.response") and not self._may_deny():
            told = self.raised
            if told is not None:  # an error of ours, answered as if to a request
                await self._close(told)
                return
        await super().on_send(message)

    async def _failed_late(self, exc: Exception, failure: SessionError | None) -> None:
        if isinstance(exc, WebSocketDisconnect):  # the client left, as clients do
            await self._commit(self._status)
        elif failure is not None:
            if not isinstance(failure, StoreError):
                await self._end_all_the_same()
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
            code, reason = next((said for kind, said in _CLOSING if isinstance(why, kind)), _BUG)
            await self._send({"type": "websocket.close", "code": code, "reason": reason})


def _ours(exc: BaseException) -> SessionError | None:
    """The exception if it is ours, also out of a task group; not what one of ours has caused."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return next(filter(None, map(_ours, group.exceptions)), None)
    return exc if isinstance(exc, SessionError) else None

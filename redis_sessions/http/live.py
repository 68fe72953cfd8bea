"""An open WebSocket or event stream that ends when its session does.

Nothing runs for it while nothing happens. A task is made when the session has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, cast

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send
from starlette.websockets import WebSocketDisconnect

from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.watching import Watch
from redis_sessions.session.record import Reject
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import Status

__all__ = ["EndedError", "Live"]

T = TypeVar("T")

_WHY: Final = {"code": 1008, "reason": "the session has ended"}
_CLOSE: Final[Message] = {"type": "websocket.close", **_WHY}
_DISCONNECT: Final[Message] = {"type": "websocket.disconnect", **_WHY}
_LAST_BODY: Final[Message] = {"type": "http.response.body", "body": b"", "more_body": False}

_BY_ITSELF: Final = (Status.NEW, Status.ENDED)
"""The session was ended by the request that it serves."""


class EndedError(OSError):
    """The connection was ended, because its session has ended. Starlette knows an OSError."""

    def __init__(self) -> None:
        super().__init__("the session has ended, and so has this connection")


class Live:
    """One open WebSocket or event stream. The application's messages go through `on_send`.

    When the session has ended, there are four cases:

    1. A WebSocket. It is closed by a task. A task of the application that is inside of `receive`
       or `send` is cancelled there, and gets a disconnect or an `EndedError` instead.
    2. A WebSocket whose own application has ended the session. The application knows, and may send
       what it likes. The socket is closed when it asks for the next message.
    3. A stream. The task that sends it is cancelled, and the last message of its body goes out
       when the application is through. What it still sends is an `EndedError`.
    4. A stream whose own application has ended the session goes on, as long as it likes.
    """

    __slots__ = (
        "_backend",
        "_by_itself",
        "_cancelled",
        "_inside",
        "_is_socket",
        "_over",
        "_session",
        "_stops",
        "_task",
        "_wanted",
        "_watch",
        "ended",
        "send",
    )

    def __init__(self, backend: Backend, session: Session, send: Send, is_socket: bool) -> None:
        self.ended = False
        self._backend = backend
        self._session = session
        self.send = send
        self._is_socket = is_socket
        self._over = False
        """Whether the client is gone, or has got the last message."""
        self._wanted = False
        self._watch: Watch | None = None
        self._stops = set[Callable[[], None]]()
        """What is called when it is over."""
        self._task: asyncio.Task[None] | None = None
        """Ends the connection."""
        self._by_itself = False
        self._inside = dict[asyncio.Task[Any], int]()
        """Whom the end cancels, and how many cancellations each task had when it came here.

        Of a socket, these are the tasks that are inside of `receive` or `send`; of a stream, the
        one that has sent the last part.
        """
        self._cancelled = dict[asyncio.Task[Any], int]()
        """Who was cancelled here, and how many cancellations each had when it came here."""

    def begin(self) -> None:
        """The connection is open: watch the session from now on, or as soon as it is loaded."""
        self._wanted = not self._over
        if not self._is_socket:
            self._note_sender()
        self.loaded()

    def loaded(self) -> None:
        """Watch the session if it is loaded, and if there is one."""
        store, unwatched = self._backend.watchable, self._wanted and self._watch is None
        if unwatched and store is not None and state_of(self._session).live is not None:
            self._watch = Watch(self._backend, store, self._session, self.session_ended)

    def unwatch(self) -> None:
        """Watch it no more. A connection that wasn't ended by now goes on."""
        self._wanted = False
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def until_over(self, stop: Callable[[], None]) -> Callable[[], None]:
        """Have `stop` called when it is over. What is returned undoes this."""
        self._stops.add(stop)
        if self._over:
            stop()
        return partial(self._stops.discard, stop)

    def stop(self) -> None:
        """It is over: the client is gone or has the last message, or the application is through."""
        self._over = True
        self.unwatch()
        for stop in tuple(self._stops):
            stop()

    # -- what the application calls

    async def on_send(self, message: Message) -> None:
        if self.ended:
            if message["type"] == "websocket.close":
                return  # it is closed
            raise EndedError
        if self._is_socket:
            if message["type"] == "websocket.close":
                self.stop()
            await self._unless_ended(self.send(message))
            return
        self._note_sender()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.stop()
        await self.send(message)

    def _note_sender(self) -> None:
        task = _current_task()
        self._inside = {task: task.cancelling()}

    async def receive(self, receive: Receive) -> Message:
        """The next message of a socket."""
        if self._by_itself and self._wanted and not self.ended:
            self.ended = True
            await self._close()
        if self.ended:
            return dict(_DISCONNECT)
        try:
            return await self._unless_ended(receive())
        except EndedError:
            return dict(_DISCONNECT)

    async def _unless_ended(self, call: Awaitable[T]) -> T:
        """Wait for a call, or raise `EndedError` as soon as the session has ended."""
        task = _current_task()
        self._inside[task] = task.cancelling()
        try:
            result = await call
        except asyncio.CancelledError:
            if not self._takes_back(task):
                raise
            raise EndedError from None
        finally:
            del self._inside[task]
        self._takes_back(task)  # unless something inside has absorbed it
        return result

    # -- the end

    def session_ended(self, why: Reject) -> None:
        """The session has ended, or its token doesn't open it any more."""
        if self._wanted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._end(why))

    async def _end(self, why: Reject) -> None:
        state = state_of(self._session)
        await state.others()  # perhaps the application's own commit ends it just now
        if not self._wanted:
            return
        if state.status in _BY_ITSELF:
            self._by_itself = True
            return
        self.ended = True
        token = None if state.stored is None else state.stored.token
        self._backend.report("disconnected", why, None if token is None else token.id)
        for task, before in self._inside.items():
            if not task.done():
                self._cancelled[task] = before
                task.cancel()
        if self._is_socket:
            await self._close()

    async def _close(self) -> None:
        with suppress(Exception):  # the client may be gone
            await self.send(dict(_CLOSE))

    def _takes_back(self, task: asyncio.Task[Any]) -> bool:
        """Take back that a task was cancelled here. False if it wasn't, or by others as well."""
        before = self._cancelled.pop(task, None)
        return before is not None and task.uncancel() <= before

    def absorbs(self) -> bool:
        """Whether the cancellation that has reached the middleware came from here alone.

        If nobody has cancelled the middleware's task, it is that of another task which has sent.
        """
        task = _current_task()
        return self._takes_back(task) or (self.ended and not task.cancelling())

    def is_cause_of(self, exc: BaseException) -> bool:
        """Whether an application raises this because its connection was ended here."""
        if isinstance(exc, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", exc)
            return all(map(self.is_cause_of, group.exceptions))
        return self.ended and isinstance(exc, (EndedError, WebSocketDisconnect, ClientDisconnect))

    def returned(self) -> None:
        """The application is through. What its task does from now on isn't cancelled."""
        self._inside.pop(_current_task(), None)

    async def finish(self) -> None:
        """The application is through: complete what was begun to end its connection."""
        self.returned()
        try:
            if self._task is not None:
                await asyncio.wait([self._task])
        finally:
            self.stop()
        self._takes_back(_current_task())  # unless the application has absorbed it
        if self.ended and not self._is_socket:
            with suppress(Exception):  # the client may be gone
                await self.send(dict(_LAST_BODY))


def _current_task() -> asyncio.Task[Any]:
    return cast("asyncio.Task[Any]", asyncio.current_task())

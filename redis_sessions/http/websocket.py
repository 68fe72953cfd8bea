"""When the session of a WebSocket is committed: when it is accepted or denied, and at its end."""

from __future__ import annotations

from typing import Final

from starlette.types import Message, Receive
from starlette.websockets import WebSocketDisconnect

from redis_sessions.errors import (
    CrossSiteError,
    ReplicationError,
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.events import logger
from redis_sessions.http.connection import Connection
from redis_sessions.http.errors import find_session_error
from redis_sessions.http.response import answer_error, commit_failed, commit_or_raise
from redis_sessions.session.session import state_of
from redis_sessions.tracebacks import stripped

__all__ = ["fail", "on_receive", "on_send"]

_BUG: Final = 1011, "internal error"
_CLOSE_CODES: Final = (
    ((StoreUnavailableError, ReplicationError, SessionConflictError), (1013, "try again")),
    ((SessionGoneError,), (1008, "the session has ended")),
    ((CrossSiteError,), (1008, "another origin caused this")),
)


async def on_receive(connection: Connection, receive: Receive) -> Message:
    """What the application calls as its `receive`."""
    live = connection.live
    message = await (receive() if live is None else live.receive(receive))
    if message["type"] == "websocket.disconnect" and connection.live is not None:
        connection.live.stop()  # which may be there only since the application waits
    return message


@stripped
async def on_send(connection: Connection, message: Message) -> None:
    """What the application calls as its `send`.

    There are four cases:

    1. It accepts. The session is committed, and this message has our headers.
    2. It closes. If nothing was accepted, this is a denial, and the session is committed first.
    3. It answers an error of ours with a response, as to a request, and the socket can't be denied
       with one: it was accepted, or the server doesn't know this. The socket is closed instead.
    4. Anything else, such as a denial response. It goes the way of a request's messages.
    """
    kind = message["type"]
    if kind == "websocket.accept" and connection.failure is None:
        connection.hold(message)
        connection.held = None  # it goes out at once
        answer = await connection.commit_before_start()
        connection.accepted = True
        message = connection.start(message, answer)
        await connection.on_send(message)
        connection.watch()
        return
    if kind == "websocket.close" and connection.failure is None:
        if not connection.started and connection.held is None:
            await _refuse(connection)
        connection.closed = True
    elif (
        connection.raised is not None  # case 3
        and kind.startswith("websocket.http.response")
        and not _may_deny(connection)
    ):
        await _close(connection, connection.raised)
        return
    await connection.on_send(message)


async def _refuse(connection: Connection) -> None:
    """Commit before a denial by `close()`. The server answers 403, without a header of ours."""
    connection.status = 403
    connection.refused = connection.started = True
    state_of(connection.session).request.late = True
    await connection.commit_before_start()


async def fail(connection: Connection, exc: Exception) -> None:
    """Deal with an exception of the application, or of a commit.

    There are five cases:

    1. An error of ours came before anything was sent, and the server knows denial responses. It
       is answered with one.
    2. The same, but the server doesn't know them. The socket is closed.
    3. An error of ours came later. The socket is closed, with a code that says why.
    4. The client left later, which is no failure. What changed is committed, and the exception is
       raised again.
    5. Anything else is raised again. What the request ended is committed first.
    """
    if not connection.started or connection.failure is not None:
        told = await commit_or_raise(connection, exc)
        if _may_deny(connection):
            await answer_error(connection, told)
        else:
            await _close(connection, told)
        return
    failure = find_session_error(exc)
    if isinstance(exc, WebSocketDisconnect):
        await connection.commit(connection.status)
    if not isinstance(failure, StoreError):
        await commit_failed(connection)
    live = connection.live
    if (
        live is not None
        and live.ended
        and (isinstance(failure, SessionGoneError) or live.is_cause_of(exc))
    ):
        return
    if failure is None:
        raise exc
    logger.error("sessions: a WebSocket was closed: %s", failure)
    await _close(connection, failure)


def _may_deny(connection: Connection) -> bool:
    """Whether a denial response can be sent."""
    extensions: dict[str, object] = connection.scope.get("extensions") or {}
    return not connection.accepted and "websocket.http.response" in extensions


async def _close(connection: Connection, why: SessionError) -> None:
    """Close the socket with the code for this error, unless it is closed."""
    if not connection.closed:
        connection.closed = True
        code, reason = next((said for kind, said in _CLOSE_CODES if isinstance(why, kind)), _BUG)
        await connection.send({"type": "websocket.close", "code": code, "reason": reason})

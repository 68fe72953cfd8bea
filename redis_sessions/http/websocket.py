"""When the session of a WebSocket is committed: as it is accepted or denied, and at its end."""

from __future__ import annotations

from typing import Final

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
from redis_sessions.http.connection import Connection
from redis_sessions.http.errors import find_session_error
from redis_sessions.http.response import answer_error, commit_or_raise
from redis_sessions.session.session import state_of
from redis_sessions.tracebacks import stripped

__all__ = ["fail", "on_send"]

_BUG: Final = 1011, "internal error"
_CLOSE_CODES: Final = (
    ((StoreUnavailableError, ReplicationError, SessionConflictError), (1013, "try again")),
    ((SessionGoneError,), (1008, "the session has ended")),
)


@stripped
async def on_send(connection: Connection, message: Message) -> None:
    """What an application gets as its `send`."""
    kind = message["type"]
    if kind == "websocket.accept" and connection.failure is None:
        connection.hold(message)
        answer = await connection.commit_before_start()
        connection.accepted = True
        message = connection.start(answer)
    elif kind == "websocket.close" and connection.failure is None:
        if not connection.started and connection.held is None:
            await _refuse(connection)
        connection.closed = True
    elif (
        connection.raised is not None  # an error of ours is answered as if to a request
        and kind.startswith("websocket.http.response")
        and not _may_deny(connection)
    ):
        await _close(connection, connection.raised)
        return
    await connection.on_send(message)


async def _refuse(connection: Connection) -> None:
    """It is closed before it was accepted. A server answers 403, without a header of ours."""
    connection.status = 403
    connection.refused = connection.started = True
    state_of(connection.session).request.late = True
    await connection.commit_before_start()


async def fail(connection: Connection, exc: Exception) -> None:
    """Answer for what the application, or a commit, has raised; or raise it again.

    There are four cases:

    1. Nothing was accepted, and the server can deny with a response. It is an HTTP response.
    2. Nothing was accepted, and the server can't. The socket is closed.
    3. The client has left, as clients do. What changed is committed.
    4. An error of ours came after the start. The socket is closed, with a code that says why.
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
        await connection.commit_failed()
    if failure is None:
        raise exc
    logger.error("sessions: a WebSocket was closed: %s", failure)
    await _close(connection, failure)


def _may_deny(connection: Connection) -> bool:
    extensions: dict[str, object] = connection.scope.get("extensions") or {}
    return not connection.accepted and "websocket.http.response" in extensions


async def _close(connection: Connection, why: SessionError) -> None:
    if not connection.closed:
        connection.closed = True
        code, reason = next((said for kind, said in _CLOSE_CODES if isinstance(why, kind)), _BUG)
        await connection.send({"type": "websocket.close", "code": code, "reason": reason})

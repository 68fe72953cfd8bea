"""When the session of an HTTP request is committed: just before its response goes out.

The response's start is held until the body begins, so that generators may still change the
session. An event stream's start isn't held, since its body may begin much later.
"""

from __future__ import annotations

from typing import Final

from starlette.types import Message

from redis_sessions.errors import StoreError
from redis_sessions.http.connection import Connection
from redis_sessions.http.errors import HttpError, as_http, find_session_error
from redis_sessions.http.headers import is_event_stream
from redis_sessions.session.outcome import NOTHING
from redis_sessions.tracebacks import strip

__all__ = ["answer_error", "commit_or_raise", "fail", "finish", "on_send"]

_NO_STORE: Final = (b"cache-control", b"no-store")


async def on_send(connection: Connection, message: Message) -> None:
    """What an application gets as its `send`: hold the start, or commit and pass a message on."""
    try:  # a decorator would cost each message another coroutine
        if connection.failure is not None:
            raise connection.failure  # the application goes on; its response can't
        if not connection.started:
            if connection.held is None and message["type"] == connection.response_start:
                connection.headers = headers = list(message.get("headers", ()))
                connection.status = message["status"]
                connection.held = message
                if is_event_stream(headers):
                    await _release(connection)
                return
            await _release(connection)
        await connection.send(message)
    except BaseException as exc:
        strip(exc)
        raise


async def _release(connection: Connection) -> None:
    """Commit, then let the start go, with what the client has to know."""
    held, connection.held = connection.held, None
    if held is not None:
        answer = NOTHING
        if not connection.is_settled():
            answer = await connection.commit_before_start(connection.status)
        await connection.send(connection.start(held, answer))


async def finish(connection: Connection) -> None:
    """The application has returned. Send what is held, and commit what changed since the start."""
    if connection.failure is not None:
        raise connection.failure  # the application has swallowed it
    await _release(connection)
    if not connection.started:
        await connection.commit_failed()
    elif not connection.is_settled():
        await connection.commit(connection.status)


async def fail(connection: Connection, exc: Exception) -> None:
    """Answer for what the application, or a commit, has raised; or raise it again."""
    if connection.started and connection.failure is None:
        # No data are stored any more, but what was ended has ended.
        if not isinstance(find_session_error(exc), StoreError):
            await connection.commit_failed()
        raise exc
    await answer_error(connection, await commit_or_raise(connection, exc))


async def commit_or_raise(connection: Connection, exc: Exception) -> HttpError:
    """What is answered to an error before the response has started; else it is raised."""
    failure = connection.failure or find_session_error(exc)
    if not isinstance(failure, StoreError):
        await connection.commit_failed()
    told = None if failure is None else as_http(failure)
    if isinstance(told, HttpError):
        return told
    if connection.failure is not None:
        raise connection.failure from connection.failure.__cause__
    raise exc


async def answer_error(connection: Connection, error: HttpError) -> None:
    """A whole response of ours."""
    body = error.detail.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        _NO_STORE,
    ]
    headers += [(k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()]
    kind = connection.response_start
    await connection.send({"type": kind, "status": error.status_code, "headers": headers})
    await connection.send({"type": kind.replace("start", "body"), "body": body})

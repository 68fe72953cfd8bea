"""How an HTTP request ends: its response is completed, or an error is answered."""

from __future__ import annotations

from redis_sessions.errors import StoreError
from redis_sessions.events import logger
from redis_sessions.http.connection import Connection
from redis_sessions.http.errors import HttpError, as_http, find_session_error
from redis_sessions.session.outcome import NOTHING
from redis_sessions.session.session import state_of
from redis_sessions.tracebacks import strip

__all__ = ["answer_error", "commit_failed", "commit_or_raise", "fail", "finish"]


async def finish(connection: Connection) -> None:
    """Send what is held, and commit what changed since the start. The application has returned."""
    if connection.live is not None:
        connection.live.returned()
    if connection.failure is not None:
        raise connection.failure  # the application has caught it
    held, connection.held = connection.held, None
    if held is not None:
        answer = NOTHING if connection.is_settled() else await connection.commit_before_start()
        await connection.send(connection.start(held, answer))
    if not connection.started:
        await commit_failed(connection)
    elif not connection.is_settled():
        await connection.commit(connection.status)


async def fail(connection: Connection, exc: Exception) -> None:
    """Deal with an exception of the application, or of a commit before the start.

    There are three cases:

    1. The response has started. What the request ended is committed, and the exception is raised.
    2. It hasn't, and the error is one of ours that has a status. The error is answered.
    3. It hasn't, and it is another exception. What the request ended is committed, and the
       exception is raised.
    """
    if connection.started and connection.failure is None:
        # No data are stored any more, but a sign-out counts.
        if not isinstance(find_session_error(exc), StoreError):
            await commit_failed(connection)
        if connection.live is not None and connection.live.is_cause_of(exc):
            return
        raise exc
    await answer_error(connection, await commit_or_raise(connection, exc))


async def commit_failed(connection: Connection) -> None:
    """Commit for a request that failed. Only a sign-out and `clear()` count then.

    The response will be a 500 by somebody else, without a header of ours. So no token can be
    sent, and the request counts as late.
    """
    state_of(connection.session).request.late = True
    try:
        await connection.commit(500)
    except Exception as exc:  # noqa: BLE001 - the request's own exception is the one to raise
        strip(exc)
        logger.exception("sessions: what a failed request ended may not have ended")


async def commit_or_raise(connection: Connection, exc: Exception) -> HttpError:
    """The error to answer with, before the response has started. Others are raised.

    What the request ended is committed first, unless the store is the trouble.
    """
    failure = connection.failure or find_session_error(exc)
    if not isinstance(failure, StoreError):
        await commit_failed(connection)
    told = None if failure is None else as_http(failure)
    if isinstance(told, HttpError):
        return told
    if connection.failure is not None:
        raise connection.failure from connection.failure.__cause__
    raise exc


async def answer_error(connection: Connection, error: HttpError) -> None:
    """Send a whole response for this error."""
    body = error.detail.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    told = error.headers or {}
    headers += [(name.lower().encode(), value.encode()) for name, value in told.items()]
    kind = connection.response_start
    await connection.send({"type": kind, "status": error.status_code, "headers": headers})
    await connection.send({"type": kind.replace("start", "body"), "body": body})

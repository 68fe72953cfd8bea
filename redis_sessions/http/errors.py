"""The errors of the library as HTTP errors, which have a status.

They are Starlette's HTTPExceptions, so that a mounted application answers them with their status,
too. Its ServerErrorMiddleware makes a 500 of any other exception.
"""

from __future__ import annotations

from typing import Final, cast

from starlette.exceptions import HTTPException

from redis_sessions.errors import (
    CrossSiteError,
    ReplicationError,
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreError,
    StoreUnavailableError,
)

__all__ = ["HttpError", "as_http", "as_raised", "find_session_error"]

_NO_STORE: Final = {"Cache-Control": "no-store"}
_LATER: Final = {"Retry-After": "1", **_NO_STORE}


class _UnavailableError(StoreUnavailableError, HTTPException):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        HTTPException.__init__(self, 503, "The session store is unavailable", {**_LATER})


class _UnreplicatedError(ReplicationError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 503, "The session isn't replicated yet", {**_LATER})


class _ConflictError(SessionConflictError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 409, "The session was changed elsewhere", {**_NO_STORE})


class _GoneError(SessionGoneError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 409, "The session has ended", {**_NO_STORE})


class _CrossSiteError(CrossSiteError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 403, "Another origin caused this request", {**_NO_STORE})


HttpError = _UnavailableError | _UnreplicatedError | _ConflictError | _GoneError | _CrossSiteError


def as_http(error: SessionError) -> SessionError:
    """The error as one with an HTTP status. An error that has no status stays as it is."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, StoreUnavailableError):
        return _UnavailableError(error.reason)
    if isinstance(error, ReplicationError):
        return _UnreplicatedError()
    if isinstance(error, SessionConflictError):
        return _ConflictError()
    if isinstance(error, CrossSiteError):
        return _CrossSiteError()
    return _GoneError() if isinstance(error, SessionGoneError) else error


def as_raised(error: StoreError) -> StoreError:
    """The error as the store has raised it, which says more than the one with an HTTP status."""
    cause = error.__cause__
    return cause if isinstance(error, HttpError) and isinstance(cause, StoreError) else error


def find_session_error(exc: BaseException) -> SessionError | None:
    """The exception, if it is one of ours, or the first of ours in a task group's. Or None."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return next(filter(None, map(find_session_error, group.exceptions)), None)
    return exc if isinstance(exc, SessionError) else None

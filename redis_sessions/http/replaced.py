"""What happens when an application puts something else into `scope["session"]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, cast

from starlette.types import Message, Scope, Send

from redis_sessions.errors import SessionError
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.session.session import Session

__all__ = ["carry_out_replacement", "restore", "send_outside"]

_NOTHING: Final = object()


def carry_out_replacement(scope: Scope, session: Session, backend: Backend) -> None:
    """Do what the application meant when it replaced the session in the scope.

    There are four cases:

    1. None, or an enum's member, which Litestar's `clear_session()` writes. The session is
       cleared.
    2. A dict that Litestar's `set_session()` wrote. The session is cleared, and begun again with
       these data.
    3. The session of another middleware inside ours. It has a class of that library, such as
       Starlette's `Session`, or is a mapping in a mounted application. It is left alone.
    4. Anything else: a dict, or an object of another class of Python's own. Nobody would store it,
       so `SessionError` says what to write instead.
    """
    found: object = scope.get("session", session)
    if found is None or isinstance(found, Enum):
        _begin_again(scope, session, {})
        return
    noted = _noted_by_litestar(scope)
    if noted is _NOTHING:
        _leave_or_raise(scope, found, backend)
    elif not isinstance(noted, Enum):
        return  # it is from Litestar's own session middleware
    elif type(found) is dict:
        _begin_again(scope, session, cast("dict[str, Any]", found))
    elif not isinstance(found, dict):
        raise SessionError(
            f"set_session() was given a {type(found).__name__}: give it a dict, or write "
            "session['…'] = …"
        )


def _leave_or_raise(scope: Scope, found: object, backend: Backend) -> None:
    kind = type(found)
    if kind.__module__.partition(".")[0] not in sys.stdlib_module_names:
        return
    # Starlette's `Mount` sets `app_root_path`.
    if "app_root_path" not in scope or not isinstance(found, Mapping):
        raise SessionError(
            f"scope['session'] was replaced by a value of type {kind.__name__}, which nobody "
            "stores: write session.clear() and session.update(…). If another session middleware "
            "runs inside of this one, mount its application under a path of its own"
        )
    backend.reporter.warn_once(
        "replaced",
        "scope['session'] was replaced by a value of type %s in a mounted application. That is "
        "right if the application has a session middleware of its own. Else it is lost: write "
        "session.clear() and session.update(…) instead",
        kind.__name__,
    )


def _begin_again(scope: Scope, session: Session, data: dict[str, Any]) -> None:
    session.clear()
    session.update(data)
    scope["session"] = session


def _noted_by_litestar(scope: Scope) -> object:
    """What Litestar notes as the id of a session of its own. There are three cases:

    1. `_NOTHING`. The application isn't Litestar.
    2. A member of an enum. Litestar's own session middleware doesn't run.
    3. An id, or None. It runs.
    """
    # This is internal to Litestar. If it moves, `set_session()` becomes case 4, which is an error.
    state: object = scope.get("state")
    notes = cast("dict[str, Any]", state) if isinstance(state, dict) else {}
    noted = notes.get("_ls_connection_state")
    return getattr(noted, "session_id", _NOTHING)


def send_outside(scope: Scope, before: Any, send: Send) -> Send:
    """A `send` through which another session middleware around ours finds its own session.

    Both use `scope["session"]`. So its session is there while a message passes through it.
    """

    async def send_with_theirs(message: Message) -> None:
        inside = scope.get("session")
        restore(scope, before)
        try:
            await send(message)
        finally:
            restore(scope, inside)

    return send_with_theirs


def restore(scope: Scope, session: Any) -> None:
    """Put another middleware's session back, or none."""
    if session is None:
        scope.pop("session", None)
    else:
        scope["session"] = session

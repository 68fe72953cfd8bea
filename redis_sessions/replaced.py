"""What an application puts into `scope["session"]` in the place of its session."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, cast

from starlette.types import Scope

from redis_sessions.errors import SessionError
from redis_sessions.manager import SessionManager
from redis_sessions.session import Session

__all__ = ["take_over"]

_NOTHING: Final = object()


def take_over(scope: Scope, session: Session, manager: SessionManager) -> None:
    """Carry out what was meant by replacing the session in the scope.

    There are four cases:

    1. None, or an enum's member, which Litestar's `clear_session()` writes. The session is
       cleared.
    2. A dict that Litestar's `set_session()` wrote. The session is cleared, and begun again with
       these data.
    3. The session of another middleware inside ours. It has a class of its own, such as
       Starlette's `Session`, or is a dict in a mounted application. It is left alone.
    4. Any other dict. Nobody would store it, so `SessionError` says what to write instead.
    """
    found: object = scope.get("session", session)
    if found is None or isinstance(found, Enum):
        _begin_again(scope, session, {})
        return
    noted = _noted_by_litestar(scope)
    if noted is _NOTHING:
        _leave_or_raise(scope, found, manager)
    elif not isinstance(noted, Enum):
        return  # Litestar's own session middleware has put it there
    elif type(found) is dict:
        _begin_again(scope, session, cast("dict[str, Any]", found))
    elif not isinstance(found, dict):
        raise SessionError(
            f"set_session() was given a {type(found).__name__}: give it a dict, or write "
            "session['…'] = …"
        )


def _leave_or_raise(scope: Scope, found: object, manager: SessionManager) -> None:
    if type(found) is not dict:
        return
    if "app_root_path" not in scope:  # which a Starlette `Mount` leaves there
        raise SessionError(
            "scope['session'] was replaced by a dict, which nobody stores: write session.clear() "
            "and session.update(…). If another session middleware runs inside of this one, mount "
            "its application under a path of its own"
        )
    manager.warn_once(
        "replaced",
        "scope['session'] was replaced by a dict in a mounted application. That is right if the "
        "application has a session middleware of its own. Else the dict is lost: write "
        "session.clear() and session.update(…) instead",
    )


def _begin_again(scope: Scope, session: Session, data: dict[str, Any]) -> None:
    session.clear()
    session.update(data)
    scope["session"] = session


def _noted_by_litestar(scope: Scope) -> object:
    """The id that Litestar's own session middleware notes, None too, or an enum's member.

    The member says that no such middleware runs. `_NOTHING`: the application isn't Litestar.
    """
    # It is internal to Litestar. If it moves, `set_session()` is case 4, an error that is told.
    state: object = scope.get("state")
    notes = cast("dict[str, Any]", state) if isinstance(state, dict) else {}
    noted = notes.get("_ls_connection_state")
    return getattr(noted, "session_id", _NOTHING)

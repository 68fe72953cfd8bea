"""What an application puts into `scope["session"]` in the place of its session."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, cast

from starlette.types import Scope

from redis_sessions.errors import SessionError
from redis_sessions.manager import SessionManager
from redis_sessions.session import Session

__all__ = ["take_over"]

_LITESTAR: Final = "_ls_connection_state"


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
    litestar = _litestar(scope)
    if litestar is None:
        if type(found) is not dict:
            return
        if "app_root_path" not in scope:  # which a Starlette `Mount` leaves there
            raise SessionError(
                "scope['session'] was replaced by a dict, which nobody stores: write "
                "session.clear() and session.update(…). If another session middleware runs inside "
                "of this one, mount its application under a path of its own"
            )
        manager.warn_once(
            "replaced",
            "scope['session'] was replaced by a dict in a mounted application. That is right if "
            "the application has a session middleware of its own. Else the dict is lost: write "
            "session.clear() and session.update(…) instead",
        )
    elif not isinstance(litestar, Enum):
        return  # Litestar's own session middleware has put it there
    elif type(found) is dict:
        _begin_again(scope, session, cast("dict[str, Any]", found))
    elif not isinstance(found, dict):
        raise SessionError(
            f"set_session() was given a {type(found).__name__}: give it a dict, or write "
            "session['…'] = …"
        )


def _begin_again(scope: Scope, session: Session, data: dict[str, Any]) -> None:
    session.clear()
    session.update(data)
    scope["session"] = session


def _litestar(scope: Scope) -> Any:
    """What Litestar's own session middleware notes; an enum's member if there is none of it.

    None: the application isn't Litestar, or one that notes it elsewhere.
    """
    # It is internal to Litestar. Without it `set_session()` is case 4, an error that is told.
    state = scope.get("state")
    noted = state.get(_LITESTAR) if isinstance(state, dict) else None
    return getattr(noted, "session_id", None) if noted is not None else None

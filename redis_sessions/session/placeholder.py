"""What stands in the place of a session: of one that isn't loaded, or that may not be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from redis_sessions.session.session import Services, Session, state_of
from redis_sessions.session.state import State
from redis_sessions.tracebacks import stripped

__all__ = ["ReadOnly", "Unloaded", "load_into"]


@stripped
def _refuse(self: Session, *_: Any, **__: Any) -> Any:
    state = state_of(self)
    state.raise_as_seen(state.missing())


# Any, since for a type checker its signature differs from those that it overrides.
_refused: Final = cast("Any", _refuse)


class Unloaded(Session):
    """A placeholder for a session that isn't loaded yet, or that can't be loaded.

    Every method raises an error that says why, except `refresh()`, which loads the session, and
    `untouched()`, which is about the request. Some code in C reads a dict without calling its
    methods. This code doesn't find an empty session, but one entry that no encoder takes.
    """

    __slots__ = ()

    def __init__(self, state: State, services: Services) -> None:
        dict.__init__(self, {"session not loaded": _NotLoaded()})
        self._state = state
        self._services = services

    def __repr__(self) -> str:
        return f"<Session not loaded: {self._state.why}>"

    # The methods of dict. Python looks the ones with underscores up in the class, so that
    # __getattribute__ wouldn't see them. A test finds any that is missing here.
    __contains__ = __getitem__ = __setitem__ = __delitem__ = _refused
    __iter__ = __reversed__ = __len__ = _refused
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refused
    __or__ = __ror__ = __ior__ = _refused
    __reduce__ = __reduce_ex__ = __getstate__ = _refused
    get = keys = values = items = copy = fromkeys = _refused
    pop = popitem = setdefault = update = clear = _refused

    # The methods and properties of Session.
    sign_in = sign_out = rotate = authenticated = expire_in = _refused
    mark_accessed = mark_modified = get_as = save = exclusive = changes = _refused
    messages = _refused
    idle_expires_at = property(_refuse)  # pyright: ignore[reportIncompatibleMethodOverride] - it is one
    id = is_new = created_at = expires_at = authenticated_at = principal = property(_refuse)  # pyright: ignore[reportIncompatibleMethodOverride] - each is one
    authentication_methods = property(_refuse)  # pyright: ignore[reportIncompatibleMethodOverride] - it is one


class _NotLoaded:
    __slots__ = ()


class ReadOnly(Session):
    """An empty session that can be read. Every method that would write raises an error."""

    __slots__ = ()

    def __init__(self, state: State, services: Services) -> None:
        dict.__init__(self)
        self._state = state
        self._services = services

    __setitem__ = __ior__ = setdefault = update = clear = _refused
    sign_in = rotate = authenticated = expire_in = mark_modified = exclusive = _refused


def load_into(session: Session, data: Mapping[str, Any], state: State) -> None:
    """Turn a placeholder into the session. References to it are to the session then."""
    dict.clear(session)
    dict.update(session, data)
    session.__class__ = Session
    session._state = state  # pyright: ignore[reportPrivateUsage] - this module's own

"""Two middlewares in one process: whether a token of one opens sessions of the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from weakref import WeakKeyDictionary

from redis_sessions.lifecycle.manager import SessionManager, backend_of
from redis_sessions.stores import RedisStore

__all__ = ["same_records", "warn_of_side_by_side"]

Name = tuple[str, str]
"""The key of a transport, such as `("cookie", "sid")`."""

_serving: Final[WeakKeyDictionary[SessionManager, set[Name]]] = WeakKeyDictionary()
"""The managers of all middlewares in this process, with the keys of their transports."""


def same_records(one: SessionManager, other: SessionManager) -> bool:
    """Whether a token of one manager opens a session of the other, by what is configured."""
    store, keys = one.store, backend_of(one).keyring.keys
    # A RedisStore's repr names the server, the database and the prefix.
    known = isinstance(store, RedisStore) and repr(store) == repr(other.store)
    return (known or store is other.store) and any(
        backend_of(other).keyring.get(key.id) for key in keys
    )


def warn_of_side_by_side(manager: SessionManager, names: Iterable[Name]) -> None:
    """Log a warning, once, if tokens with another name, of another middleware, open here too.

    It is no error, since tests and factories make several applications of which only one serves.
    """
    ours = set(names)
    for other, theirs in list(_serving.items()):
        if theirs.isdisjoint(ours) and same_records(manager, other):
            backend_of(other).reporter.warn_once(
                "side by side",
                "sessions: two SessionMiddlewares, with %s and %s, share a store and the prefix "
                "%r, so that a token of one opens as one of the other: give one of them another "
                "prefix=, or write one middleware with transport=[…]",
                " and ".join(f"the {kind} {name!r}" for kind, name in sorted(theirs)),
                " and ".join(f"the {kind} {name!r}" for kind, name in sorted(ours)),
                manager.store.prefix,
            )
            break
    _serving.setdefault(manager, set()).update(ours)

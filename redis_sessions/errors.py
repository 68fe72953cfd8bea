"""What can go wrong, as one tree.

    SessionError
    ├── ConfigurationError        a combination that can't work; raised where it is written
    ├── SessionEncodeError        a value that can't be stored (500: it is a bug)
    ├── SessionConflictError      others kept changing the session until the deadline (409)
    ├── SessionGoneError          awaited on a session that ended, or was rotated, elsewhere
    └── StoreError                the store refused
        ├── StoreUnavailableError the store can't be asked (503); nobody is signed out by it
        └── ReplicationError      stored, but on too few replicas in time (503)

An absent session is never an error: it is a session that is empty and new.
"""

from __future__ import annotations

import asyncio

__all__ = [
    "ConfigurationError",
    "ReplicationError",
    "SessionConflictError",
    "SessionEncodeError",
    "SessionError",
    "SessionGoneError",
    "StoreError",
    "StoreUnavailableError",
]


class SessionError(Exception):
    """The base of everything that this library raises."""


class ConfigurationError(SessionError):
    """A configuration that can't work; the message says what to write instead."""


class SessionEncodeError(SessionError):
    """A value that can't be stored; the message names its path and type, or the sizes."""


class SessionConflictError(SessionError):
    """The session was changed elsewhere again and again, until the operation's deadline."""


class SessionGoneError(SessionError):
    """The session that was to be saved or refreshed has ended, or was rotated, elsewhere."""


class StoreError(SessionError):
    """The store answered, and refused."""


class StoreUnavailableError(StoreError):
    """The store can't be asked now: unknown, rather than not done.

    `reason` is one of `"connection"`, `"timeout"`, `"protocol"` (something else than Redis
    listens there), `"full"` (the queue of this process),
    `"refused"` (credentials or rights), `"server"` (loading, out of memory, read-only ...).
    """

    def __init__(self, message: str, *, reason: str = "connection") -> None:
        super().__init__(message)
        self.reason = reason


class ReplicationError(StoreError):
    """A write was stored, but fewer replicas than asked for confirmed it in time.

    A change, a sign-out or a revocation was carried out to its end all the same. Of a new session
    nobody has the token.
    """

    reason = "replication"


def raise_if_short(shortfall: str | None) -> None:
    """`ReplicationError` if there is a sentence that says how few replicas have a write."""
    if shortfall is not None:
        raise ReplicationError(shortfall)


def afresh(error: SessionError) -> SessionError:
    """The same error once more, with a traceback of its own."""
    kind = type(error)
    again = kind.__new__(kind, *error.args)  # not by `__init__`, which may take something else
    vars(again).update(vars(error))
    again.__cause__ = error.__cause__
    return again


def check_bound(value: object, name: str, highest: float) -> None:
    """Refuse what isn't a number of seconds above 0 and up to `highest`."""
    if type(value) not in (int, float) or not 0 < value <= highest:  # type: ignore[operator]
        raise ConfigurationError(f"{name}={value!r}: write seconds, above 0 and up to {highest:g}")


def check_event_loop() -> None:
    """Refuse to run on trio, say, where every await of ours would fail one by one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "sessions need asyncio, and this server runs no asyncio event loop: with hypercorn "
            "choose the worker class asyncio or uvloop instead of trio"
        ) from None

"""The errors of this library.

    SessionError
    ├── ConfigurationError        options that can't work; raised where they are written
    │   └── AliasError            a text from outside can't be an alias' value; a ValueError, too
    ├── SessionEncodeError        a value can't be stored (500, since it is a bug)
    ├── SessionConflictError      others changed the session until the deadline passed (409)
    ├── SessionGoneError          another request ended or rotated the session
    ├── LeadershipLostError       another process may lead by now
    ├── CrossSiteError            another origin caused the request, which may not write (403)
    └── StoreError                the store refused an operation
        ├── StoreUnavailableError the store didn't answer (503); nobody is signed out by it
        └── ReplicationError      it was stored, but on too few replicas in time (503)

A session that isn't there is no error. The request gets a new session, which is empty.
"""

from __future__ import annotations

import asyncio

__all__ = [
    "AliasError",
    "ConfigurationError",
    "CrossSiteError",
    "LeadershipLostError",
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
    """A configuration that can't work. The message says what to write instead."""


class AliasError(ConfigurationError, ValueError):
    """The value of an alias that can't be one: it isn't a str, is empty, or has over 512 bytes.

    It often comes from outside, such as in a provider's token. Catch this, and answer 400.
    """


class SessionEncodeError(SessionError):
    """A value that can't be stored. The message names its path and type, or the sizes."""


class SessionConflictError(SessionError):
    """Other requests changed the session again and again, until the operation's deadline."""


class SessionGoneError(SessionError):
    """The session can't be saved or refreshed, since another request ended or rotated it."""


class CrossSiteError(SessionError):
    """Another origin caused the request, so it may neither sign in nor write a session.

    It is raised where the session is written, or instead of the application with
    `cross_site="refuse"`. The message says what to write if the origin is trusted.
    """


class LeadershipLostError(SessionError):
    """The lease isn't known to hold any more, so another process may lead."""


class StoreError(SessionError):
    """The store answered that it refuses an operation."""


class StoreUnavailableError(StoreError):
    """The store can't be used now. It is unknown whether a write has been carried out.

    `reason` is one of these:

    - `"connection"`: the server can't be reached
    - `"timeout"`: it didn't answer in time
    - `"protocol"`: what answers isn't Redis
    - `"full"`: the queue of this process is full
    - `"refused"`: the server refuses the credentials, or the user lacks rights
    - `"server"`: the server can't work now: it is loading, out of memory, read-only ...
    """

    def __init__(self, message: str, *, reason: str = "connection") -> None:
        super().__init__(message)
        self.reason = reason


class ReplicationError(StoreError):
    """A write was stored, but too few replicas confirmed it in time.

    A change, a sign-out or a revocation was carried out to its end all the same. Of a new session
    nobody has the token.
    """

    reason = "replication"


def raise_if_short(shortfall: str | None) -> None:
    """`ReplicationError` if there is a sentence that says how few replicas have a write."""
    if shortfall is not None:
        raise ReplicationError(shortfall)


def afresh(error: SessionError) -> SessionError:
    """A copy of an error, with a traceback and notes of its own."""
    kind = type(error)
    again = kind.__new__(kind, *error.args)  # without __init__, which may take other arguments
    vars(again).update(vars(error))
    if hasattr(again, "__notes__"):
        again.__notes__ = [*again.__notes__]
    again.__cause__ = error.__cause__
    return again


def check_bound(value: object, name: str, highest: float) -> None:
    """Raise `ConfigurationError` unless this is a number of seconds in (0, `highest`]."""
    if type(value) not in (int, float) or not 0 < value <= highest:  # type: ignore[operator]
        raise ConfigurationError(f"{name}={value!r}: write seconds, above 0 and up to {highest:g}")


def check_event_loop() -> None:
    """Raise `ConfigurationError` if asyncio doesn't run: on trio, for example, nothing works."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "sessions need asyncio, and this server runs no asyncio event loop: with hypercorn "
            "choose the worker class asyncio or uvloop instead of trio"
        ) from None

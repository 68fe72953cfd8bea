"""Errors of redis-py, and of the network, become errors of a store here, and nowhere else."""

from __future__ import annotations

from typing import Any, Final

from redis import exceptions as errors

from redis_sessions.connect.resp import UNEXPECTED_REPLY
from redis_sessions.errors import StoreError, StoreUnavailableError

__all__ = [
    "CREDENTIALS",
    "FAILURES",
    "NO_DATABASE",
    "as_redis_error",
    "error_reply",
    "is_read_only",
    "late",
    "translate",
    "unexpected_reply",
]

FAILURES: Final = (errors.RedisError, OSError)
"""What connecting and sending raise if they fail. A `TimeoutError` is an `OSError`."""
NO_DATABASE: Final = "DB index is out of range"
CREDENTIALS: Final = ("username-password pair", "uthentication required", "without any password")
"""Words of servers about a wrong password, a missing one, and one that isn't wanted."""

# In errors of a server that can't serve now. Other errors are refusals.
_UNAVAILABLE_WORDS: Final = (
    *("OOM", "LOADING", "BUSY", "READONLY", "MISCONF", "MASTERDOWN", "CLUSTERDOWN"),
    *("TRYAGAIN", "NOREPLICAS"),
)
_UNAVAILABLE: Final = (
    *(errors.BusyLoadingError, errors.ReadOnlyError, errors.OutOfMemoryError),
    *(errors.ClusterDownError, errors.TryAgainError),
)
_REFUSED: Final = (
    *(errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError),
    errors.AuthenticationWrongNumberOfArgsError,
)
_REFUSED_WORDS: Final = (
    *("NOPERM", "NOAUTH", "WRONGPASS"),
    *("ACL failure", "can't run this command"),  # inside a script: Redis 7 and later, 6.2
)
_CODES: Final[dict[str, type[errors.ResponseError]]] = {
    "ASK": errors.AskError,
    "CLUSTERDOWN": errors.ClusterDownError,
    "MOVED": errors.MovedError,
    "NOSCRIPT": errors.NoScriptError,
    "READONLY": errors.ReadOnlyError,
    "TRYAGAIN": errors.TryAgainError,
}


def error_reply(text: str) -> errors.ResponseError:
    """The error for a server's error reply, such as `MOVED 3999 127.0.0.1:6381`."""
    code, _, rest = text.partition(" ")
    kind = _CODES.get(code)
    if kind is None:
        return errors.ResponseError(text)
    try:
        return kind(rest)
    except UNEXPECTED_REPLY:  # a MOVED without an address
        return errors.ResponseError(text)


def is_read_only(reply: Any) -> bool:
    """Whether an error reply says that the server is a primary no more."""
    # In the error of a script, Redis 6.2 writes the number of its line first.
    return isinstance(reply, errors.ReadOnlyError) or (
        isinstance(reply, errors.ResponseError) and "READONLY" in str(reply)
    )


def as_redis_error(exc: Exception) -> Exception:
    """An error of redis-py for whatever redis-py raised."""
    if isinstance(exc, FAILURES):
        return exc
    # redis-py raises an AttributeError if a Sentinel goes away meanwhile.
    if isinstance(exc, UNEXPECTED_REPLY) and not isinstance(exc, AttributeError):
        return errors.InvalidResponse(str(exc))
    return errors.ConnectionError(f"{type(exc).__name__}: {exc}")


def translate(where: str, exc: Exception) -> StoreError:
    """The error of a store for a failed connection, or for the error of one command."""
    if isinstance(exc, StoreError):
        return exc
    if isinstance(exc, errors.InvalidResponse):
        return unexpected_reply(where)
    text = str(exc).strip().removesuffix(".")
    if isinstance(exc, _REFUSED) or any(word in text for word in _REFUSED_WORDS):
        return StoreUnavailableError(f"{where} refused: {text}", reason="refused")
    if isinstance(exc, (errors.AskError, errors.ClusterCrossSlotError)) or "CROSSSLOT" in text:
        # In redis-py a MovedError is a subclass of AskError.
        return StoreError(f"{where} is a node of a Cluster: write redis+cluster://…")
    if NO_DATABASE in text:
        return StoreError(
            f"{where}: the server has no database of this number: write 0, or raise "
            "`databases` in its configuration"
        )
    if isinstance(exc, _UNAVAILABLE) or any(word in text for word in _UNAVAILABLE_WORDS):
        return StoreUnavailableError(f"{where} can't serve now: {text}", reason="server")
    if isinstance(exc, (errors.ConnectionError, errors.TimeoutError, OSError)):
        return StoreUnavailableError(f"{where} can't be reached: {text}")
    return StoreError(f"{where} answered: {text}")


def late(where: str, seconds: float) -> StoreUnavailableError:
    """The error for a server that is too slow."""
    return StoreUnavailableError(f"{where} didn't answer within {seconds:g} s", reason="timeout")


def unexpected_reply(where: str) -> StoreUnavailableError:
    """The error for a reply that no Redis gives."""
    return StoreUnavailableError(
        f"{where} doesn't speak Redis's protocol: see whether something else listens at this "
        "address",
        reason="protocol",
    )

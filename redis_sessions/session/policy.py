"""What is decided once for all sessions of a manager: checked options, which don't change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from redis_sessions.errors import ConfigurationError
from redis_sessions.session.keywords import listed
from redis_sessions.session.principal import Principal, PrincipalOption
from redis_sessions.session.state import Duration, seconds

__all__ = ["DEFAULT_MAX_AGE", "DEFAULT_MAX_SIZE", "Policy", "checked_policy"]

DEFAULT_MAX_AGE: Final = 14 * 24 * 3600
DEFAULT_IDLE: Final = 7 * 24 * 3600
DEFAULT_MAX_SIZE: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long sessions live, who is signed in, and what is refused. Durations are in seconds."""

    max_age: int
    """The absolute lifetime."""
    persistent: bool
    """Whether cookies outlive the browser."""
    idle_timeout: int
    """How long a session may go unused."""
    principal: Principal
    """Finds who is signed in by the data."""
    rotate_on: frozenset[str]
    """A change of one of these keys gives the session a new token."""
    max_sessions: int | None
    """How many sessions a principal may have. None is no limit."""
    on_conflict: Literal["merge", "error"]
    """What happens if several requests change one session at once."""
    on_binding_mismatch: Literal["reject", "report"]
    """What happens to a session that is bound to something else than the request."""
    max_size: int
    """How many bytes the encoded data may have."""
    deadline: float
    """Within how many seconds all writes of one response begin."""


def checked_policy(
    *,
    max_age: Duration | None,
    idle_timeout: Duration | None,
    principal: PrincipalOption,
    rotate_on: Collection[str],
    max_sessions: int | None,
    on_conflict: Literal["merge", "error"],
    on_binding_mismatch: Literal["reject", "report"],
    max_size: int,
    deadline: float,
) -> Policy:
    """The policy for these options of a `SessionManager`. Raises `ConfigurationError`."""
    lifetime = DEFAULT_MAX_AGE if max_age is None else seconds(max_age, "max_age")
    idle = (
        min(DEFAULT_IDLE, lifetime)
        if idle_timeout is None
        else seconds(idle_timeout, "idle_timeout")
    )
    if idle > lifetime:
        raise ConfigurationError(
            f"idle_timeout ({_in_words(idle)}) is longer than max_age ({_in_words(lifetime)}), at "
            "which a session ends however much it is used: lower idle_timeout=, or raise max_age="
        )
    if type(max_size) is not int or max_size < 1:
        raise ConfigurationError(f"max_size={max_size!r}: write bytes, such as 65536")
    if max_sessions is not None and (type(max_sessions) is not int or max_sessions < 1):
        raise ConfigurationError(f"max_sessions={max_sessions!r}: write 1 or more, or None")
    if on_conflict not in ("merge", "error"):
        raise ConfigurationError(f"on_conflict={on_conflict!r}: write 'merge' or 'error'")
    if on_binding_mismatch not in ("reject", "report"):
        raise ConfigurationError(
            f"on_binding_mismatch={on_binding_mismatch!r}: write 'reject' or 'report'"
        )
    return Policy(
        max_age=lifetime,
        persistent=max_age is not None,
        idle_timeout=idle,
        principal=Principal(principal),
        rotate_on=_keys(rotate_on),
        max_sessions=max_sessions,
        on_conflict=on_conflict,
        on_binding_mismatch=on_binding_mismatch,
        max_size=max_size,
        deadline=deadline,
    )


def _keys(rotate_on: Collection[str]) -> frozenset[str]:
    keys = listed(rotate_on)
    for key in keys:
        if not isinstance(key, str) or not key or "." in key:
            raise ConfigurationError(
                f"rotate_on={rotate_on!r}: write a list of the session's own keys, such as "
                "['role', 'tenant'], and no dotted paths: 'user' stands for all that is in it"
            )
    return frozenset(keys)


def _in_words(seconds: int) -> str:
    """Such as `14 days`, `90 minutes` or `1 second`."""
    units = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
    unit, size = next((unit, size) for unit, size in units if seconds % size == 0)
    count = seconds // size
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"

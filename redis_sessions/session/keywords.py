"""How options are given: errors for a wrong name, and the values of those that take several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Final, TypeVar, cast

from redis_sessions.errors import ConfigurationError

__all__ = ["COOKIES", "listed", "suggesting"]

F = TypeVar("F", bound=Callable[..., None])

_OTHER_NAMES: Final = {
    "session_cookie": ("cookie", "cookie_name", "name", "session_name"),
    "store": ("redis_url", "url", "redis", "client", "backend", "session_store"),
    "secret_key": ("secret", "key", "secret_keys", "keyring"),
    "https_only": ("secure", "cookie_secure", "cookie_https_only"),
    "same_site": ("samesite", "cookie_samesite", "cookie_same_site"),
    "max_age": ("lifetime", "ttl", "expire", "expires", "cookie_max_age"),
    "idle_timeout": ("idle", "timeout", "rolling"),
    "principal": ("user_key", "user", "user_id"),
    "prefix": ("key_prefix", "redis_prefix"),
    "trusted_origins": ("allowed_origins", "allow_origins", "csrf_trusted_origins"),
    "cross_site": ("csrf", "csrf_protection"),
    "domain": ("cookie_domain",),
    "path": ("cookie_path",),
}

COOKIES: Final = {other: ours for ours, others in _OTHER_NAMES.items() for other in others}
"""The names that other session middlewares have for options, and our name for each."""


def listed(given: Any) -> list[Any]:
    """The values of an option that takes a list, tuple or set. [None]: it is none of these.

    A text alone is none, although one can iterate over it.
    """
    try:
        return [None] if isinstance(given, (str, bytes)) else list(given)
    except TypeError:
        return [None]


class _WrongArgumentsError(ConfigurationError, TypeError):
    """Also a TypeError, which is what Python raises for wrong arguments."""


def suggesting(
    others: Mapping[str, str], refuse: Callable[[Any, ConfigurationError], None] | None = None
) -> Callable[[F], F]:
    """Decorates an `__init__`: the error for wrong arguments says what to write.

        @suggesting({"redis_url": "store"})
        def __init__(self, *, store): ...  # Class(redis_url=…): "has no option …: write store="

    `others`: names from elsewhere, and our name for each. `refuse(self, error)` is called instead
    of raising the error. The signature stays the same.
    """

    def decorate(init: F) -> F:
        whole = signature(init)
        own = [*whole.parameters.values()][1:]  # all but self
        known = [each.name for each in own]
        positional = [each.name for each in own if each.kind is not Parameter.KEYWORD_ONLY]

        def explain(name: str) -> str:
            meant = others.get(name) or next(iter(get_close_matches(name, known, 1)), None)
            advice = f"write {meant}=" if meant else f"it takes {', '.join(known)}"
            return f"no option {name}=: {advice}"

        def problem(self: object, args: tuple[Any, ...], options: dict[str, Any]) -> str | None:
            if unknown := [name for name in options if name not in known]:
                return f"has {'; '.join(map(explain, unknown))}"
            try:
                whole.bind(self, *args, **options)
            except TypeError as exc:
                return f"takes {', '.join(positional)}, and all others by name: {exc}"
            return None

        @wraps(init)
        def checked(self: object, *args: Any, **options: Any) -> None:
            wrong = problem(self, args, options)
            if wrong is None:
                init(self, *args, **options)
                return
            error = _WrongArgumentsError(f"{type(self).__name__} {wrong}")
            if refuse is None:
                raise error
            refuse(self, error)

        return cast("F", checked)

    return decorate

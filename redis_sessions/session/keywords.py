"""Names of options that somebody could take for ours, and which ones ours are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Final, TypeVar, cast

from redis_sessions.errors import ConfigurationError

__all__ = ["COOKIES", "suggesting"]

F = TypeVar("F", bound=Callable[..., None])

COOKIES: Final = {
    **dict.fromkeys(("cookie", "cookie_name", "name", "session_name"), "session_cookie"),
    **dict.fromkeys(("redis_url", "url", "redis", "client", "backend", "session_store"), "store"),
    **dict.fromkeys(("secret", "key", "secret_keys", "keyring"), "secret_key"),
    **dict.fromkeys(("secure", "cookie_secure", "cookie_https_only"), "https_only"),
    **dict.fromkeys(("samesite", "cookie_samesite", "cookie_same_site"), "same_site"),
    **dict.fromkeys(("lifetime", "ttl", "expire", "expires", "cookie_max_age"), "max_age"),
    **dict.fromkeys(("idle", "timeout", "rolling"), "idle_timeout"),
    **dict.fromkeys(("user_key", "user", "user_id"), "principal"),
    **dict.fromkeys(("key_prefix", "redis_prefix"), "prefix"),
    "cookie_domain": "domain",
    "cookie_path": "path",
}
"""What other libraries call the options of a session middleware."""


_BY_NAME: Final = Parameter.KEYWORD_ONLY


class _WrongArgumentsError(ConfigurationError, TypeError):
    """Python's own error for it is a TypeError."""


def suggesting(
    others: Mapping[str, str], refuse: Callable[[Any, ConfigurationError], None] | None = None
) -> Callable[[F], F]:
    """Have an `__init__` say what to write where its arguments don't fit.

    `others`: names elsewhere, with ours. `refuse(self, error)` is called in place of raising the
    error. The signature stays as it is.
    """

    def decorate(init: F) -> F:
        whole = signature(init)
        kinds = {name: each.kind for name, each in [*whole.parameters.items()][1:]}
        known, first = list(kinds), [n for n, k in kinds.items() if k is not _BY_NAME]

        def wrong(self: object, args: tuple[Any, ...], options: dict[str, Any]) -> str | None:
            told: list[str] = []
            for name in [name for name in options if name not in known]:
                close = get_close_matches(name, known, 1)
                meant = others.get(name) or next(iter(close), None)
                hint = f"write {meant}=" if meant else f"it takes {', '.join(known)}"
                told.append(f"no option {name}=: {hint}")
            if told:
                return f"has {'; '.join(told)}"
            try:
                whole.bind(self, *args, **options)
            except TypeError as exc:
                return f"takes {', '.join(first)}, and all others by name: {exc}"
            return None

        @wraps(init)
        def checked(self: object, *args: Any, **options: Any) -> None:
            told = wrong(self, args, options)
            if told is None:
                init(self, *args, **options)
                return
            error = _WrongArgumentsError(f"{type(self).__name__} {told}")
            if refuse is None:
                raise error
            refuse(self, error)

        return cast("F", checked)

    return decorate

"""Who is signed in: where the data name the principal, and the form in which two are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast
from uuid import UUID

from redis_sessions.errors import ConfigurationError, SessionEncodeError
from redis_sessions.session.values import Values, decode, reader

__all__ = ["Principal", "PrincipalOption", "remove"]

# Types that come back from the store as they were.
_PLAIN: Final = frozenset({str, int, type(None)})

_ONLY_STR: Final = frozenset({str})

PrincipalOption = str | Callable[[Mapping[str, Any]], Any]
"""A key (`"user_id"`), a dotted path (`"user.sub"`), or a callable over the data."""


class Principal:
    """Finds the principal in a session's data: a str, or None for nobody.

        Principal("user_id").find({"user_id": 7})  # "7"

    A str, an int (also 0) or a UUID is a principal. Each becomes a str, since a value may have
    another type after it was stored and loaded: a UUID comes back as a str. Any other type is a
    `ConfigurationError`.
    """

    __slots__ = ("_find", "_key", "_read", "option", "path")

    def __init__(self, option: PrincipalOption) -> None:
        self.option: PrincipalOption = option
        self.path: tuple[str, ...] = ()
        """The keys that lead to the principal. Empty if a callable finds it."""
        self._find: Callable[[Mapping[str, Any]], Any] | None = None
        if isinstance(option, str):
            self.path = tuple(option.split("."))
            if len(self.path) > 1:
                self._find = self._follow
        elif callable(option):
            self._find = option
        if not all(self.path) or not (self.path or self._find):
            raise ConfigurationError(
                f"principal={option!r}: write a key, a dotted path such as 'user.sub', "
                "or a callable"
            )
        self._key = self.path[0] if self.path else ""
        self._read = reader(self._key)

    def find(self, data: Mapping[str, Any]) -> str | None:
        """Who is signed in, by data as they are loaded. Raises `ConfigurationError`."""
        value = data.get(self._key) if self._find is None else self._find(data)
        return value if value is None or (type(value) is str and value) else self.canonical(value)

    def of(self, encoded: bytes) -> str | None:
        """Who is signed in, by encoded data. Whoever loads them finds the same."""
        try:
            value = self._read(encoded) if self.path else decode(encoded)
        except ValueError as exc:
            raise SessionEncodeError(
                "the session was changed by another thread while it was encoded"
            ) from exc
        if self._find is not None:
            value = self._find({self._key: value} if self.path else value)
        return value if value is None or (type(value) is str and value) else self.canonical(value)

    def shows(self, data: Mapping[Any, Any]) -> bool:
        """Whether `find` gives for these data, not encoded yet, what `of` gives once they are."""
        if self._find is not None or not {*map(type, data)} <= _ONLY_STR:
            return False  # an Enum member among the keys may be stored as the principal's key
        return type(data.get(self._key)) in _PLAIN

    def keys(self, changed: Iterable[Any]) -> set[Any]:
        """The top-level keys that name the principal. For a callable, any that changed may."""
        return {self.path[0]} if self.path else set(changed)

    def path_for(self, method: str) -> tuple[str, ...]:
        """The path that `sign_in()` or `sign_out()` changes. A callable has none: raises."""
        if not self.path:
            raise ConfigurationError(
                f"{method}() can't know which keys the callable principal= reads: to sign in, set "
                "these keys and call authenticated(); to sign out, remove them; or name a key, "
                'such as principal="user_id"'
            )
        return self.path

    def as_stored(self, principal: str | int | UUID) -> str | int:
        """What `sign_in(principal)` stores. Raises `ConfigurationError`."""
        value: Any = principal
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, str) and value:
            return str.__str__(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return int.__int__(value)
        given = "an empty str" if value == "" else f"a value of type {type(value).__name__}"
        advice = " To sign somebody out, call sign_out()." if value is None else ""
        raise ConfigurationError(
            f"sign_in() got {given}: give it what identifies the user, a str, an int or a UUID."
            + advice
        )

    def _follow(self, data: Mapping[str, Any]) -> Any:
        value: Any = data
        for step in self.path:
            if not isinstance(value, Mapping):
                return None
            value = cast("Mapping[str, Any]", value).get(step)
        return value

    def canonical(self, value: Any) -> str:
        """The form in which principals are compared. Raises `ConfigurationError`."""
        if type(value) is int:
            return int.__repr__(value)
        if isinstance(value, str) and not value:
            raise ConfigurationError(
                f"the principal (principal={self.option!r}) is an empty str, which names nobody: "
                "set what identifies the user, or remove it to sign out"
            )
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return int.__repr__(value)
        kind = type(value).__name__
        advice = (
            'name what identifies the user, such as principal="user.sub"'
            if isinstance(value, (Mapping, list, tuple, bool))
            else "give a callable that returns a str, an int or a UUID"
        )
        raise ConfigurationError(
            f"the principal (principal={self.option!r}) is a {kind}, which can't be compared "
            f"as a user's id: {advice}"
        )


def remove(data: dict[Any, Any], key: str, values: Values) -> None:
    """Remove each key that is stored as this one: an Enum member is stored as its value."""
    for name in [name for name in data if name == key or values.stored_key(name) == key]:
        del data[name]

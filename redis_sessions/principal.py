"""Who is signed in: where the principal is found in the data, and its one canonical form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from uuid import UUID

from redis_sessions.errors import ConfigurationError
from redis_sessions.values import decode

__all__ = ["Principal", "PrincipalOption"]

# What typed values have: msgspec, dataclasses, attrs, pydantic. Others have methods by any name.
_TYPED = ("__struct_fields__", "__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields__")

# Types that are stored as they are, or that no hook makes a principal of.
_PLAIN = ("builtins", "uuid", "decimal", "datetime", "fractions")

PrincipalOption = str | Callable[[Mapping[str, Any]], Any]
"""A key (`"user_id"`), a dotted path (`"user.sub"`), or a callable over the data."""


class Principal:
    """Finds the principal in a session's data: a str, or None for nobody.

    `0` is somebody. int, str and UUID become str, since what was loaded may have another type
    than what was stored; anything else is a `ConfigurationError`.
    """

    __slots__ = ("_find", "_key", "_path", "option")

    def __init__(self, option: PrincipalOption) -> None:
        self.option = option
        self._find: Callable[[Mapping[str, Any]], Any] | None = None
        self._key = option if isinstance(option, str) else ""
        if isinstance(option, str):
            self._path: tuple[str, ...] = tuple(option.split("."))
            if not all(self._path):
                raise ConfigurationError(
                    f"principal={option!r}: write a key, a dotted path such as 'user.sub', "
                    "or a callable"
                )
            if len(self._path) > 1:
                self._find = self._follow
        elif callable(option):
            self._path = ()
            self._find = option
        else:
            raise ConfigurationError(
                f"principal={option!r}: write a key, a dotted path such as 'user.sub', "
                "or a callable"
            )

    def find(self, data: Mapping[str, Any]) -> str | None:
        """Who is signed in by these data; `ConfigurationError`."""
        value = data.get(self._key) if self._find is None else self._find(data)
        if value is None or (type(value) is str and value):
            return value
        return int.__repr__(value) if type(value) is int else self.canonical(value)

    def of(
        self, data: Mapping[str, Any], encode: Callable[[Mapping[str, Any]], bytes]
    ) -> str | None:
        """By what is stored of these data, where that may differ from what they hold now."""
        if self._find is None and type(data.get(self._key)).__module__ in _PLAIN:
            return self.find(data)
        return self.find(decode(encode(data)))

    def keys(self, changed: Iterable[Any]) -> set[Any]:
        """The top-level keys that say who it is; of a callable, any that changed may."""
        return {self._path[0]} if self._path else set(changed)

    def _follow(self, data: Mapping[str, Any]) -> Any:
        value: Any = data
        for step in self._path:
            if value is None:
                return None
            if isinstance(value, Mapping):
                value = cast("Mapping[str, Any]", value).get(step)
            elif any(hasattr(value, mark) for mark in _TYPED):
                value = getattr(value, step, None)
            else:
                return None
        return value

    def canonical(self, value: Any) -> str:
        """The one form in which principals are compared; raises `ConfigurationError`."""
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
            f"for life: {advice}"
        )

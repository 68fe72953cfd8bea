"""Aliases: other names by which a session can be ended, such as a provider's `sid`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from redis_sessions.errors import AliasError, ConfigurationError

__all__ = ["MOST", "alias", "checked_aliases"]

MOST: Final = 4
"""How many aliases one session may have."""

MAX_BYTES: Final = 512
"""How long a value may be, in UTF-8."""

_NAME: Final = re.compile("[a-z0-9_]{1,32}")


def alias(name: str, value: str) -> str:
    """The text of an alias: its name, a NUL, and its value.

    Raises `ConfigurationError` for a name, and `AliasError` for a value. The error doesn't show the
    value, which is kept as secret as data.
    """
    given: Any = name
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise ConfigurationError(
            f"{name!r} can't name an alias: write 1 to 32 of a-z, 0-9 and _, such as 'sid'"
        )
    given = value
    if not isinstance(given, str):
        raise AliasError(
            f"the value of the alias {name!r} is of the type {type(given).__name__}: write a str, "
            "or leave this alias out"
        )
    try:
        size = len(given.encode())
    except UnicodeEncodeError:
        raise AliasError(f"the value of the alias {name!r} is no valid Unicode") from None
    if not 1 <= size <= MAX_BYTES:
        raise AliasError(
            f"the value of the alias {name!r} has {size} bytes: write 1 to {MAX_BYTES}"
        )
    return f"{str.__str__(name)}\0{str.__str__(value)}"


def checked_aliases(aliases: Mapping[str, str]) -> tuple[str, ...]:
    """The texts of these aliases. Raises `ConfigurationError`."""
    given: Any = aliases
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"aliases= is a {type(given).__name__}: write a dict, such as {{'sid': claims['sid']}}"
        )
    if len(aliases) > MOST:
        raise ConfigurationError(f"aliases= has {len(aliases)} names: write at most {MOST}")
    return tuple(alias(name, value) for name, value in aliases.items())

"""How somebody signed in: the names of RFC 8176, such as `pwd` and `otp`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from redis_sessions.errors import ConfigurationError
from redis_sessions.session.keywords import listed

__all__ = ["MOST", "checked_methods"]

MOST: Final = 8
"""How many methods one authentication may have."""

_NAME: Final = re.compile(r"[!#-\[\]-~]{1,64}")
"""The characters of a `scope-token` (RFC 6749). Providers have names such as `urn:…`, too."""


def checked_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """Each of these names once, in their order. `ConfigurationError` for what is no name."""
    names = listed(methods)
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise ConfigurationError(
            f"methods={methods!r}: write a list of names, such as ['pwd', 'otp'], each of 1 to "
            '64 visible ASCII characters, without " and \\'
        )
    unique = tuple(dict.fromkeys(map(str.__str__, names)))  # an Enum's member becomes its value
    if len(unique) > MOST:
        raise ConfigurationError(f"methods={methods!r}: write at most {MOST} names")
    return unique

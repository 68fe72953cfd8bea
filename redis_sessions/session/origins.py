"""Where the objects in a session come from. Another user who signs in gets none of the others'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = ["NO_OBJECTS", "Origins"]

NO_OBJECTS: Final[Mapping[Any, Any]] = MappingProxyType({})
MAX_HELD: Final = 64
"""How many earlier `Origins.loaded` are kept. A worker may save one session for ever."""


class Origins(msgspec.Struct, eq=False):
    """Where the objects in a session come from: its record, or this request."""

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    loaded: Mapping[Any, Any] = NO_OBJECTS
    """The objects that the record holds, by key."""
    held: tuple[Mapping[Any, Any], ...] = ()
    """Earlier `loaded`: the first one, and the latest ones. There are at most `MAX_HELD`."""
    assigned: dict[Any, None] | None = None
    """The keys that this request assigned, and that aren't stored yet."""
    theirs: Any = None
    """A cache of `session/carryover.py`. Nobody else uses it."""
    left_changes: bool = False
    """Whether `sign_in()` has dropped changes, because they were in another user's data."""

    def assign(self, keys: Iterable[Any]) -> None:
        """Note that this request assigned these keys."""
        self.assigned = self.assigned or {}
        self.assigned.update(dict.fromkeys(keys))

    def hold(self, data: Mapping[Any, Any]) -> None:
        """Note that the record holds these objects. Another user who signs in gets none of them."""
        if self.loaded:
            # The first one is always kept: the handler may have any object of what was loaded.
            self.held = (*self.held[:1], *self.held[1:][2 - MAX_HELD :], self.loaded)
        self.loaded = {**self.loaded, **data}
        self.theirs = None

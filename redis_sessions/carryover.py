"""What of its data a request may keep: over another's data, and after a failure.

When somebody signs in over another's data, what this request assigned goes along: a key goes along
if the request gave it an object that the record doesn't hold. What the request changed in place is
still the other's, and so is a new list or dict with something of theirs in it. Objects are told
apart by identity; and by value, where they were taken out of a container that the record holds.
What Python has once for everybody (None, small integers, "") tells nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

from redis_sessions import values
from redis_sessions.errors import SessionEncodeError
from redis_sessions.state import State
from redis_sessions.values import Values

__all__ = ["assigned", "storable"]

_IMMUTABLE: Final = (str, bytes, int, float, tuple, frozenset)
_EMPTY: Final = {b"", b"\x80", b"\x90"}
"""How these are encoded: what can't be stored (as nothing), an empty dict, an empty list."""

_ABSENT: Final = object()


def assigned(
    session: Mapping[Any, Any],
    encoded: bytes,
    state: State,
    codec: Values,
    path: Sequence[str],
) -> bytes:
    """The keys of the `encoded` session that this request assigned, encoded.

    `path`: where the principal is. It goes along in any case, with nothing of another's beside it.
    """
    theirs, here = _Theirs(state, codec), codec.keyed(session)
    before = values.split(state.base)
    kept = dict[Any, bytes]()
    for key, raw in values.split(encoded).items():
        value = here.get(key, _ABSENT)
        if path and key == path[0]:
            was = values.decode_value(before[key]) if key in before else None
            kept[key] = codec.encode_value(key, theirs.left_out_of(value, was, path[1:]))
        elif not theirs.at(key, value) and not theirs.in_(value) and codec.packs(value, raw):
            kept[key] = raw  # (otherwise a thread has changed it since)
    return values.join(kept)


def storable(session: Mapping[Any, Any], base: bytes, codec: Values) -> bytes:
    """The data of a request that failed, encoded: a value that can't be stored is as it was."""
    before, parts = values.split(base), dict[Any, bytes]()
    for key, value in list(session.items()):
        try:
            parts |= values.split(codec.encode({key: value}))
        except SessionEncodeError:
            if key in before:
                parts[key] = before[key]
    return values.join(parts)


class _Theirs:
    """The objects that a record holds."""

    def __init__(self, state: State, codec: Values) -> None:
        self._codec = codec
        self._roots = (*state.held, state.loaded)
        self._objects = dict[int, Any]()
        self._taken_out = set[bytes]()
        before = values.split(state.base)
        for key, value in state.loaded.items():
            self._add(value, before.get(key))
        for root in state.held:
            for key, value in root.items():
                if state.loaded.get(key) is not value:
                    self._add(value, None)

    def _add(self, value: Any, raw: bytes | None) -> None:
        objects = _objects_in(value, self._codec)
        if raw is not None and not self._codec.packs(value, raw):
            # It was changed in place, or converted: constants of the application are in it.
            was = _objects_in(values.decode_value(raw), self._codec)
            had = Counter(map(self._pack, was))
            packed = [(each, self._pack(each)) for each in objects]
            self._taken_out |= (had - Counter(p for _, p in packed)).keys() - _EMPTY
            objects = [each for each, p in packed if p in had or not isinstance(each, _IMMUTABLE)]
        self._objects.update((id(each), each) for each in objects)

    def at(self, key: Any, value: Any) -> bool:
        """Whether this is what the record holds at this key: nothing was assigned."""
        return any(root.get(key, _ABSENT) is value for root in self._roots)

    def in_(self, value: Any) -> bool:
        """Whether something of theirs is in a value, or is the value."""
        return any(
            id(each) in self._objects or (self._taken_out and self._pack(each) in self._taken_out)
            for each in _objects_in(value, self._codec, keys=True)
        )

    def left_out_of(self, value: Any, was: Any, path: Sequence[str]) -> Any:
        """The principal's value, without what is theirs; `was`: what was stored there."""
        if not path or not self.in_(value):
            return value
        if not _is(value, dict):  # a typed one
            return _only(values.decode_value(self._codec.encode_value(path[0], value)), path)
        old: Any = was if _is(was, dict) else {}
        kept = {
            key: each
            for key, each in self._codec.keyed(value).items()
            if key == path[0] or not (self.in_(each) or self._same(each, old.get(key, _ABSENT)))
        }
        kept[path[0]] = self.left_out_of(kept.get(path[0]), old.get(path[0]), path[1:])
        return kept

    def _same(self, value: Any, old: Any) -> bool:
        return old is not _ABSENT and self._pack(value) == self._pack(old)

    def _pack(self, value: Any) -> bytes:
        try:
            return self._codec.encode_value("", value)
        except SessionEncodeError:
            return b""  # nothing is stored as this


def _only(value: Any, path: Sequence[str]) -> Any:
    return {path[0]: _only(value[path[0]], path[1:])} if path else value


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind)


def _tells(value: Any) -> bool:
    """Whether an object isn't one that everybody has."""
    if value is None or isinstance(value, (Enum, type)):
        return False
    if isinstance(value, int):
        return not -5 <= value <= 256
    if isinstance(value, (str, bytes)):
        return len(value) > 1
    return bool(value) if _is(value, (tuple, frozenset)) else True


def _objects_in(value: Any, codec: Values, *, keys: bool = False) -> list[Any]:
    """An object and all that is in it, as far as they tell whose they are.

    `keys`: a dict's keys, too. Those that were loaded don't tell: msgspec keeps short ones.
    """
    found, left = dict[int, Any](), [value]
    while left:
        each = left.pop()
        if id(each) not in found and _tells(each):
            found[id(each)] = each
            left.extend(codec.inside(each, keys=keys))
    return list(found.values())

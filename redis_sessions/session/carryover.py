"""What of its data a request may keep: over another's data, and after a failure.

When somebody signs in over another's data, a key goes along if this request assigned it, and if
its value neither is nor holds an object of the other's record. What the request changed in place
is still the other's. Objects are told apart by identity; and by value, where they were taken out
of a container that the record holds. What Python has once for everybody (None, small integers, "")
tells nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, cast

from redis_sessions.errors import SessionEncodeError
from redis_sessions.session import values
from redis_sessions.session.state import State
from redis_sessions.session.values import Values

__all__ = ["assigned", "carried", "holds_theirs", "storable"]

_IMMUTABLE: Final = (str, bytes, int, float, tuple, frozenset)
_PLAIN: Final = frozenset({str, bytes, int, float})
_EMPTY: Final = {(b"",), (b"\x80",), (b"\x90",)}
"""The marks of what can't be stored, of an empty dict, and of an empty list."""

_SHARED_KEY: Final = 32
"""A dict's keys up to this length are one object in all that msgspec decodes."""

_ABSENT: Final = object()


def carried(
    session: Mapping[Any, Any], state: State, codec: Values, path: Sequence[str]
) -> dict[Any, Any]:
    """What goes along at `sign_in()`; notes whether there are changes that don't."""
    kept = _going_along(session, state, codec, path)
    before = {} if state.wanted.cleared else state.before()
    state.origins.left_changes |= any(
        not codec.packs(value, before.get(_stored(key, codec), b""))
        for key, value in list(session.items())
        if key not in kept
    )
    return kept


def assigned(
    session: Mapping[Any, Any], encoded: bytes, state: State, codec: Values, path: Sequence[str]
) -> bytes:
    """What of the `encoded` session goes along, encoded."""
    parts, kept = values.split(encoded), dict[Any, bytes]()
    for own, value in _going_along(session, state, codec, path).items():
        key = _stored(own, codec)
        if path and key == path[0]:
            kept[key] = codec.encode_value(key, value)
        elif key in parts and codec.packs(value, parts[key]):
            kept[key] = parts[key]  # (otherwise a thread has changed it since)
    return values.join(kept)


def holds_theirs(session: Mapping[Any, Any], state: State, codec: Values) -> bool:
    """Whether an object of the record is in the session."""
    return _theirs(state, codec).in_(dict(session))


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


def _going_along(
    session: Mapping[Any, Any], state: State, codec: Values, path: Sequence[str]
) -> dict[Any, Any]:
    """What this request assigned, without what is another's.

    `path`: where the principal is. It goes along in any case, with nothing of another's beside it.
    """
    theirs = _theirs(state, codec)
    ours = codec.keyed(dict.fromkeys(state.origins.assigned or ()))
    kept = dict[Any, Any]()
    for own, value in list(session.items()):
        key = _stored(own, codec)
        if path and key == path[0]:
            kept[own] = theirs.left_out_of(value, path)
        elif (state.wanted.cleared or key in ours) and not (theirs.is_(own) or theirs.in_(value)):
            kept[own] = value
    return kept


def _stored(key: Any, codec: Values) -> Any:
    return key if type(key) is str else codec.stored_key(key)


def _theirs(state: State, codec: Values) -> _Theirs:
    """Found once, for `sign_in()` and for the commit after it."""
    if state.origins.theirs is None:
        state.origins.theirs = _Theirs(state, codec)
    return cast("_Theirs", state.origins.theirs)


class _Theirs:
    """The objects that a record holds; looked for when something is first compared with them."""

    def __init__(self, state: State, codec: Values) -> None:
        origins = state.origins
        self._base, self._roots = values.split(state.base), (origins.loaded, *origins.held)
        self._codec = codec
        self._found = dict[int, Any]()
        self._taken_out = set[Any]()

    def _objects(self) -> dict[int, Any]:
        if self._roots:
            loaded, *held = self._roots
            for key, value in loaded.items():
                self._add(value, self._base.get(key))
            for root in held:
                for key, value in root.items():
                    if loaded.get(key) is not value and id(value) not in self._found:
                        self._add(value, None)
            self._roots = ()
        return self._found

    def _add(self, value: Any, raw: bytes | None) -> None:
        objects = _objects_in(value, self._codec, longer=_SHARED_KEY)
        if raw is not None and not self._codec.packs(value, raw):
            # It was changed in place, or converted: constants of the application are in it.
            was = _objects_in(values.decode_value(raw), self._codec, longer=_SHARED_KEY)
            had = Counter(map(self._mark, was))
            marked = [(each, self._mark(each)) for each in objects]
            self._taken_out |= (had - Counter(mark for _, mark in marked)).keys() - _EMPTY
            objects = [
                each for each, mark in marked if mark in had or not isinstance(each, _IMMUTABLE)
            ]
        self._found.update((id(each), each) for each in objects)

    def is_(self, value: Any) -> bool:
        """Whether this is an object of theirs."""
        return _tells(value) and id(value) in self._objects()

    def in_(self, value: Any) -> bool:
        """Whether something of theirs is in a value, or is the value."""
        if not _tells(value):
            return False
        theirs, taken_out = self._objects(), self._taken_out
        return any(
            id(each) in theirs or (taken_out and self._mark(each) in taken_out)
            for each in _objects_in(value, self._codec, longer=0)
        )

    def left_out_of(self, value: Any, path: Sequence[str]) -> Any:
        """The principal's value, without what is theirs."""
        was = values.decode_value(self._base[path[0]]) if path[0] in self._base else None
        return self._left_out_of(value, was, path[1:])

    def _left_out_of(self, value: Any, was: Any, path: Sequence[str]) -> Any:
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
        kept[path[0]] = self._left_out_of(kept.get(path[0]), old.get(path[0]), path[1:])
        return kept

    def _same(self, value: Any, old: Any) -> bool:
        return old is not _ABSENT and self._pack(value) == self._pack(old)

    def _mark(self, value: Any) -> Any:
        """What an object is compared by with those that were taken out; cheap for plain values."""
        if type(value) not in _PLAIN:
            packed = self._pack(value)
            if not packed or isinstance(value, (dict, list, tuple)):
                return (packed,)
            value = values.decode_value(packed)
            if type(value) not in _PLAIN:
                return (packed,)
        return (float, value) if type(value) is float else value

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
    if type(value) is str:
        return len(value) > 1
    if value is None or isinstance(value, (Enum, type)):
        return False
    if isinstance(value, int):
        return not -5 <= value <= 256
    if isinstance(value, (str, bytes)):
        return len(value) > 1
    return bool(value) if _is(value, (tuple, frozenset)) else True


def _objects_in(value: Any, codec: Values, *, longer: int) -> list[Any]:
    """An object and all that is in it, as far as they tell whose they are.

    `longer`: than which a dict's keys have to be.
    """
    found, left = dict[int, Any](), [value]
    while left:
        each = left.pop()
        if id(each) not in found and _tells(each):
            found[id(each)] = each
            if type(each) not in _PLAIN:
                left.extend(codec.inside(each, longer=longer))
    return list(found.values())

"""Which data a request may keep: when it signs somebody in over another user's data, or fails.

An example: a session holds Alice's data, and a request signs Bob in. A key stays if this request
assigned it, and if its value neither is nor contains an object of Alice's record. A value of
Alice's that the request changed in place is still Alice's.

Objects are compared by identity. An object that was taken out of a list or dict of the record,
such as by `pop()`, is compared by value as well. Python has some objects only once (None, small
integers, ""); they don't show where a value comes from, and are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, Final, cast

from redis_sessions.errors import SessionEncodeError
from redis_sessions.session import values
from redis_sessions.session.state import State
from redis_sessions.session.values import Values

__all__ = ["carried_over", "carry_over", "holds_recorded", "set_data", "storable"]

_IMMUTABLE: Final = (str, bytes, int, float, tuple, frozenset)
_PLAIN: Final = frozenset({str, bytes, int, float})
_EMPTY: Final = {(b"",), (b"\x80",), (b"\x90",)}
"""The fingerprints of what can't be stored, of an empty dict, and of an empty list."""

_SHARED_KEY: Final = 32
"""msgspec gives equal keys of dicts the same str object if they have at most this length."""

_ABSENT: Final = object()


def set_data(session: dict[str, Any], data: Mapping[str, Any]) -> None:
    """Set a session's data. Unlike its `clear()`, this doesn't end it."""
    dict.clear(session)
    dict.update(session, data)


def carry_over(
    session: Mapping[Any, Any], state: State, codec: Values, path: Sequence[str]
) -> dict[Any, Any]:
    """The data that stay at `sign_in()`. Notes in the state if a change is among the others."""
    kept = _kept(session, state, codec, path)
    before = state.before()
    state.origins.left_changes |= any(
        not codec.encodes_to(value, before.get(_stored_key(key, codec), b""))
        for key, value in list(session.items())
        if key not in kept
    )
    return kept


def carried_over(
    session: Mapping[Any, Any], encoded: bytes, state: State, codec: Values, path: Sequence[str]
) -> bytes:
    """The data that stay at the commit of a sign-in, encoded. `encoded`: all of the session's."""
    parts, kept = values.split(encoded), dict[Any, bytes]()
    for name, value in _kept(session, state, codec, path).items():
        key = _stored_key(name, codec)
        if path and key == path[0]:
            kept[key] = codec.encode_value(key, value)
        elif key in parts and codec.encodes_to(value, parts[key]):
            kept[key] = parts[key]  # if it differs, a thread has changed the value since
    return values.join(kept)


def holds_recorded(session: Mapping[Any, Any], state: State, codec: Values) -> bool:
    """Whether an object of the record is in the session."""
    return _recorded(state, codec).is_in(dict(session))


def storable(session: Mapping[Any, Any], base: bytes, codec: Values) -> bytes:
    """The data of a request that failed, encoded.

    A value that can't be stored is replaced by the one that `base`, the stored data, has.
    """
    before, parts = values.split(base), dict[Any, bytes]()
    for key, value in list(session.items()):
        try:
            parts |= values.split(codec.encode({key: value}))
        except SessionEncodeError:
            if key in before:
                parts[key] = before[key]
    return values.join(parts)


def _kept(
    session: Mapping[Any, Any], state: State, codec: Values, path: Sequence[str]
) -> dict[Any, Any]:
    """What this request assigned, except for objects of the record.

    The key that `path`, the principal's, begins with is always kept, with the principal and with
    what is beside it and isn't of the record.
    """
    recorded = _recorded(state, codec)
    assigned = codec.keyed(state.origins.assigned or {})
    kept = dict[Any, Any]()
    for name, value in list(session.items()):
        key = _stored_key(name, codec)
        if path and key == path[0]:
            kept[name] = recorded.removed_from(value, path)
        elif (state.wanted.cleared or key in assigned) and not (
            recorded.has(name) or recorded.is_in(value)
        ):
            kept[name] = value
    return kept


def _stored_key(key: Any, codec: Values) -> Any:
    return key if type(key) is str else codec.stored_key(key)


def _recorded(state: State, codec: Values) -> _RecordedObjects:
    """These are found once, for `sign_in()` and for the commit after it."""
    if state.origins.theirs is None:
        state.origins.theirs = _RecordedObjects(state, codec)
    return cast("_RecordedObjects", state.origins.theirs)


class _RecordedObjects:
    """The objects that a record holds. They are searched for at the first comparison."""

    def __init__(self, state: State, codec: Values) -> None:
        self._stored = {} if state.stored is None else values.split(state.stored.data)
        self._loaded, self._held = state.origins.loaded, state.origins.held
        self._codec = codec

    def has(self, value: Any) -> bool:
        """Whether this is an object of the record."""
        return _is_distinctive(value) and id(value) in self._found[0]

    def is_in(self, value: Any) -> bool:
        """Whether an object of the record is in this value, or is this value."""
        if not _is_distinctive(value):
            return False
        objects, taken_out = self._found
        return any(
            id(each) in objects or (taken_out and self._fingerprint(each) in taken_out)
            for each in self._objects_in(value, key_length=0).values()
        )

    def removed_from(self, value: Any, path: Sequence[str]) -> Any:
        """The value of the principal's key, without the objects of the record in it."""
        was = values.decode_value(self._stored[path[0]]) if path[0] in self._stored else None
        return self._removed_from(value, was, path[1:])

    def _removed_from(self, value: Any, was: Any, path: Sequence[str]) -> Any:
        if not path or not self.is_in(value):
            return value
        if not _is(value, dict):  # such as a dataclass
            return _only(values.decode_value(self._codec.encode_value(path[0], value)), path)
        old: Any = was if _is(was, dict) else {}
        kept = {
            key: each
            for key, each in self._codec.keyed(value).items()
            if key == path[0] or not (self.is_in(each) or self._same(each, old.get(key, _ABSENT)))
        }
        kept[path[0]] = self._removed_from(kept.get(path[0]), old.get(path[0]), path[1:])
        return kept

    @cached_property
    def _found(self) -> tuple[dict[int, Any], set[Any]]:
        """The objects by their ids, and the fingerprints of those that were taken out."""
        found, taken_out = dict[int, Any](), set[Any]()
        for key, value in self._loaded.items():
            objects, raw = self._objects_in(value), self._stored.get(key)
            if raw is not None and not self._codec.encodes_to(value, raw):
                objects, missing = self._compare(objects, raw)
                taken_out |= missing
            found |= objects
        for held in self._held:
            for key, value in held.items():
                if self._loaded.get(key) is not value and id(value) not in found:
                    found |= self._objects_in(value)
        return found, taken_out

    def _compare(self, objects: dict[int, Any], raw: bytes) -> tuple[dict[int, Any], set[Any]]:
        """The record's among the objects of a value that was changed in place, or converted.

        The others are the application's: constants that it has put there, or a type's defaults.
        Returns also the fingerprints of the objects that `raw`, the stored value, has besides.
        """
        stored = self._objects_in(values.decode_value(raw)).values()
        before = Counter(map(self._fingerprint, stored))
        now = {at: self._fingerprint(each) for at, each in objects.items()}
        recorded = {
            at: each
            for at, each in objects.items()
            if now[at] in before or not isinstance(each, _IMMUTABLE)
        }
        return recorded, (before - Counter(now.values())).keys() - _EMPTY

    def _objects_in(self, value: Any, key_length: int = _SHARED_KEY) -> dict[int, Any]:
        """A value and all distinctive objects in it, by their ids.

        A dict's keys are left out if they are texts of at most `key_length` characters.
        """
        found, left = dict[int, Any](), [value]
        while left:
            each = left.pop()
            if id(each) not in found and _is_distinctive(each):
                found[id(each)] = each
                if type(each) not in _PLAIN:
                    left.extend(self._codec.parts_of(each, key_length))
        return found

    def _same(self, value: Any, old: Any) -> bool:
        return old is not _ABSENT and self._encode(value) == self._encode(old)

    def _fingerprint(self, value: Any) -> Any:
        """Equal for two objects that are stored as the same. A plain value is its own."""
        if type(value) not in _PLAIN:
            encoded = self._encode(value)
            if not encoded or isinstance(value, (dict, list, tuple)):
                return (encoded,)
            value = values.decode_value(encoded)
            if type(value) not in _PLAIN:
                return (encoded,)
        return (float, value) if type(value) is float else value  # 1.0 == 1

    def _encode(self, value: Any) -> bytes:
        try:
            return self._codec.encode_value("", value)
        except SessionEncodeError:
            return b""  # no value is stored as this


def _only(value: Any, path: Sequence[str]) -> Any:
    return {path[0]: _only(value[path[0]], path[1:])} if path else value


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind)


def _is_distinctive(value: Any) -> bool:
    """Whether the identity of an object shows where it comes from."""
    if type(value) is str:  # the most frequent type first
        return len(value) > 1
    if value is None or isinstance(value, (Enum, type)):
        return False
    if isinstance(value, int):
        return not -5 <= value <= 256
    if isinstance(value, (str, bytes)):
        return len(value) > 1
    return bool(value) if _is(value, (tuple, frozenset)) else True

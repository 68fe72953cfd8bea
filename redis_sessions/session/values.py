"""What an application keeps in a session, as MessagePack: encode, compare key by key, convert.

Nothing here knows of tokens, seals or stores. The encoded bytes decide what counts as a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from itertools import chain, islice, zip_longest
from os import urandom
from typing import Any, Final, TypeVar

import msgspec

from redis_sessions.errors import SessionEncodeError
from redis_sessions.session.conversion import convert, name_of

__all__ = ["EMPTY", "MAX_CONTAINERS", "MAX_DEPTH", "REMOVED", "Changes", "Values"]

T = TypeVar("T")

EMPTY: Final = b"\x80"
"""An empty session, encoded."""

MAX_DEPTH: Final = 100
"""Levels of nesting: far below what the recursion limit of any supported Python decodes."""

MAX_CONTAINERS: Final = 4096
"""Dicts and lists in one session: each costs time and memory at each read, whatever its bytes."""

REMOVED: Final = None
"""What a key that was removed has in `Changes`, in place of its encoded value."""

Changes = dict[Any, "bytes | None"]

# Bytes that open no MessagePack map or array.
_NO_CONTAINERS: Final = bytes({*range(256)} - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})

_CONTAINERS: Final = (dict, list, tuple)

_TORN: Final = "the session was changed by another thread while it was encoded"

_ONLY_STR: Final = frozenset({str})

_ATOMS: Final = (str, bytes, int, float, type(None), Enum)

_split: Final = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw]).decode
_join: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(dict[Any, Any]).decode
_decode_any: Final = msgspec.msgpack.Decoder().decode


class Values:
    """Encodes and decodes session data.

    `enc_hook(value)` turns a value of an unknown type into one that MessagePack holds, or
    raises NotImplementedError; `dec_hook(type, value)` restores one in `get_as`. Both are
    msgspec's hooks. pydantic's models and secrets work without them. `max_size`: encoded bytes.
    """

    __slots__ = ("_dec_hook", "_enc_hook", "max_size", "pack")

    def __init__(
        self,
        *,
        max_size: int,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
    ) -> None:
        self.max_size = max_size
        self._enc_hook = enc_hook
        self._dec_hook = dec_hook
        self.pack = _join
        """As `encode`, for values of types that msgspec knows, with the errors that it raises."""

    def encode(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes of a session's data; `SessionEncodeError` names what can't be stored."""
        try:
            return self._pack_any(data)
        except RecursionError as exc:
            raise _too_deep(k for k, v in _items(data) if not self._encodes(v)) from exc
        except SessionEncodeError:
            raise
        except Exception as exc:
            path, kind = self._culprit(data)
            raise SessionEncodeError(
                f"session{path} can't be stored: {kind} ({exc}). "
                "Store plain data, or give the manager an enc_hook for this type"
            ) from exc

    def encode_value(self, key: Any, value: Any) -> bytes:
        """The bytes of one value."""
        try:
            return self._pack_any(value)
        except Exception:
            self.encode({key: value})  # raises, and says where
            raise

    def check(self, encoded: bytes, before: bytes = EMPTY) -> None:
        """Refuse what is too large, too deep, or has too many dicts and lists.

        `before`: what was stored. Above a limit, which may be newer, that may stay and shrink.
        """
        if len(encoded) > self.max_size and len(encoded) > len(before):
            sizes = {key: len(value) for key, value in split(encoded).items()}
            raise SessionEncodeError(
                f"the session is {len(encoded)} bytes, over max_size={self.max_size}; "
                f"its largest keys, in bytes: {_largest(sizes)}"
            )
        # Bounds the number of containers, and so the depth, from above.
        candidates = len(encoded.translate(None, _NO_CONTAINERS))
        if candidates > MAX_DEPTH:
            try:
                deep = _deep_keys(encoded, before)
            except RecursionError as exc:
                raise _too_deep(()) from exc
            except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                raise SessionEncodeError(_TORN) from exc
            if deep:
                raise _too_deep(deep)
        if candidates > MAX_CONTAINERS:
            counts = _counts(encoded)
            count = sum(counts.values())
            if count > MAX_CONTAINERS and count > sum(_counts(before).values()):
                raise SessionEncodeError(
                    f"the session has {count} dicts and lists, over the limit of {MAX_CONTAINERS}; "
                    f"its largest keys, in dicts and lists: {_largest(counts)}"
                )

    def keyed(self, data: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """These values by the keys that they are stored under: an Enum member, by its value."""
        if {*map(type, data)} <= _ONLY_STR:
            return data
        return {self.stored_key(key): data[key] for key in _keys(data) if key in data}

    def packs(self, value: Any, raw: bytes) -> bool:
        """Whether these bytes are what a value is stored as."""
        try:
            return self._pack_any(value) == raw
        except Exception:  # noqa: BLE001 - whatever it is, it isn't stored as these
            return False

    def inside(self, value: Any, *, longer: int) -> Iterable[Any]:
        """The objects that a value consists of, one level down; of a dict's keys the `longer`."""
        if isinstance(value, dict):
            return _objects_of(value, longer)
        if isinstance(value, (list, tuple, set, frozenset)):
            return _members(value)
        if isinstance(value, _ATOMS):
            return ()
        kind: Any = value.__class__
        fields: Any = getattr(kind, "__struct_fields__", getattr(kind, "__dataclass_fields__", ()))
        fields = fields or [field.name for field in getattr(kind, "__attrs_attrs__", ())]
        if fields:
            return [getattr(value, name) for name in fields if hasattr(value, name)]
        try:
            return (self._from_unknown(value),)
        except Exception:  # noqa: BLE001 - the hook's: it was asked before, when it was encoded
            return ()  # such as a datetime

    def convert(self, key: str, value: Any, type: type[T]) -> T:
        """The value of a key, as it was loaded, as a `type`; ValueError if it doesn't fit."""
        return convert(key, value, type, self._dec_hook)

    def _pack_any(self, value: Any) -> bytes:
        try:
            return self.pack(value)
        except TypeError:
            return self._pack_with_hooks(value)

    def _pack_with_hooks(self, value: Any) -> bytes:
        """The bytes of what holds values of unknown types.

        msgspec crashes where a thread changes a list or dict while a hook runs in the middle of
        it. So it only marks these values here, with hooks written in C, and in one call written
        in C: no other thread runs meanwhile. Their own bytes then go where the marks are.
        """
        unknown, mark = list[Any](), urandom(16)
        hooks = unknown.append, partial({None: mark}.setdefault, None)
        encoders = [msgspec.msgpack.Encoder(enc_hook=hook) for hook in hooks]
        _, marked = map(msgspec.msgpack.Encoder.encode, encoders, (value, value))
        known = marked.split(self.pack(mark))
        if len(known) != len(unknown) + 1:
            raise SessionEncodeError(_TORN)
        encoded = [self._pack_any(self._from_unknown(each)) for each in unknown]
        return b"".join(chain.from_iterable(zip_longest(known, encoded, fillvalue=b"")))

    def _from_unknown(self, value: Any) -> Any:
        if self._enc_hook is not None:
            try:
                return self._enc_hook(value)
            except NotImplementedError:
                pass  # the hook's word for "not mine"
        if hasattr(value, "model_dump"):  # pydantic, unless mode="json" would mask secrets
            return value.model_dump(round_trip=True, by_alias=False)
        if hasattr(value, "get_secret_value"):
            return value.get_secret_value()
        raise NotImplementedError("no enc_hook knows it")

    def _culprit(self, value: Any) -> tuple[str, str]:
        """The path to what makes encoding fail, and what it is; only asked after a failure."""
        path = ""
        for _ in range(MAX_DEPTH):
            children = _children(value)
            child = next((c for c in children if not self._encodes(c[1])), None)
            if child is None:
                break
            path, value = path + child[0], child[1]
        if isinstance(value, dict):
            for key in _keys(value):
                if not self._encodes({key: None}):
                    return path, f"a key of type {_kind(key)}"
        return path, f"a value of type {_kind(value)}"

    def stored_key(self, key: Any) -> Any:
        """What those who load the data have in place of this key."""
        try:
            (stored,) = _decode(self._pack_any({key: None}))
        except Exception:  # noqa: BLE001 - whoever encodes it says why it can't be stored
            return key
        return stored

    def _encodes(self, value: Any) -> bool:
        try:
            self._pack_any(value)
        except Exception:  # noqa: BLE001 - whatever it is, this is the way down
            return False
        return True


def _too_deep(keys: Iterable[Any]) -> SessionEncodeError:
    where = next((f"session[{key!r}]" for key in keys), "the session")
    return SessionEncodeError(f"{where} is nested deeper than {MAX_DEPTH} levels")


def decode(encoded: bytes) -> dict[Any, Any]:
    """Session data; raises ValueError for bytes that are none."""
    try:
        return _decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError("not a session's data") from exc


def reader(key: str) -> Callable[[bytes], Any]:
    """Makes what reads one key's value out of a session's encoded data; None if it isn't there.

    The rest isn't decoded. Raises ValueError for bytes that are no session's data.
    """
    field = ("value", Any, None)
    try:
        one_key = msgspec.defstruct("OneKey", [field], rename={"value": key}, gc=False)
    except ValueError:  # such as a key with a quotation mark
        return lambda encoded: decode(encoded).get(key)
    read: Callable[[bytes], Any] = msgspec.msgpack.Decoder[Any](one_key).decode

    def read_key(encoded: bytes) -> Any:
        try:
            return read(encoded).value
        except (msgspec.MsgspecError, RecursionError):  # such as a key that is an int, beside it
            return decode(encoded).get(key)

    return read_key


def decode_value(encoded: bytes) -> Any:
    """One value, in its encoded form's own types."""
    return _decode_any(encoded)


def raw(encoded: bytes) -> msgspec.Raw:
    """Encoded bytes that stand for themselves inside another encoding."""
    return msgspec.Raw(encoded)


def split(encoded: bytes) -> dict[Any, bytes]:
    """Each top-level key's value, still encoded."""
    return {key: bytes(raw) for key, raw in _split(encoded).items()}


def join(parts: Mapping[Any, bytes]) -> bytes:
    """The inverse of `split`."""
    return _join({key: msgspec.Raw(value) for key, value in parts.items()})


def changes(before: Mapping[Any, bytes], after: Mapping[Any, bytes]) -> Changes:
    """The top-level keys that were set (their encoded values) or removed (None)."""
    changed: Changes = {k: v for k, v in after.items() if before.get(k) != v}
    changed.update({k: REMOVED for k in before if k not in after})
    return changed


def apply(encoded: bytes, changed: Changes) -> bytes:
    """`encoded` with these top-level keys set or removed."""
    parts = split(encoded)
    for key, value in changed.items():
        if value is None:
            parts.pop(key, None)
        else:
            parts[key] = value
    return join(parts)


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", child) for key, child in _items(value)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(f"[{index}]", child) for index, child in enumerate(_members(value))]
    fields: Any = getattr(value, "__struct_fields__", getattr(value, "__dataclass_fields__", ()))
    return [(f".{name}", getattr(value, name)) for name in fields]


def _largest(sizes: Mapping[Any, int]) -> str:
    largest = sorted(sizes.items(), key=lambda part: part[1], reverse=True)
    return ", ".join(f"{key!r} {size}" for key, size in largest[:3])


def _deep_keys(encoded: bytes, before: bytes) -> list[Any]:
    known = split(before)
    return [key for key, raw in split(encoded).items() if known.get(key) != raw and _is_deep(raw)]


def _is_deep(raw: bytes) -> bool:
    try:
        levels = _levels(decode_value(raw))
        return next(islice(levels, MAX_DEPTH - 1, None), None) is not None
    except RecursionError:
        return True


def _counts(encoded: bytes) -> dict[Any, int]:
    """How many dicts and lists each key's value consists of."""
    levels = {key: _levels(decode_value(raw)) for key, raw in split(encoded).items()}
    return {key: sum(map(len, each)) for key, each in levels.items()}


def _levels(value: Any) -> Iterator[list[Any]]:
    """The dicts and lists of each level, the outermost first."""
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    while level:
        yield level
        level = [
            child
            for container in level
            for child in (_parts(container) if isinstance(container, dict) else container)
            if isinstance(child, _CONTAINERS)
        ]


def _parts(value: Any) -> tuple[Any, ...]:
    return (*value, *value.values())  # a key may be a tuple


def _objects_of(value: Any, longer: int) -> list[Any]:
    keys = [key for key in _keys(value) if not isinstance(key, str) or len(key) > longer]
    return [*keys, *value.values()]


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items())


def _keys(value: Any) -> list[Any]:
    return list(value)


def _members(value: Any) -> list[Any]:
    return list(value)


def _kind(value: Any) -> str:
    kind: Any = value.__class__
    return name_of(kind)

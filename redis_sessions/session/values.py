"""The data of a session as MessagePack: encode, decode, limit, compare and change by key.

Nothing here knows of tokens, keys or stores. Data have changed if their encoded bytes differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import cache, partial
from itertools import islice, repeat
from os import urandom
from typing import Any, Final, TypeVar

import msgspec

from redis_sessions.errors import SessionEncodeError
from redis_sessions.session.conversion import convert, name_of

__all__ = ["EMPTY", "MAX_CONTAINERS", "MAX_DEPTH", "Changes", "Values", "pack"]

T = TypeVar("T")

EMPTY: Final = b"\x80"
"""An empty session, encoded."""

MAX_DEPTH: Final = 100
"""Levels of nesting. Every supported Python decodes many more before its recursion limit."""

MAX_CONTAINERS: Final = 4096
"""Dicts and lists in one session. Each costs time and memory at each read, even if it is small."""

Changes = dict[Any, "bytes | None"]
"""The encoded values of the top-level keys that were set, and None for each that was removed."""

# The bytes with which no MessagePack map or array begins.
_NO_CONTAINERS: Final = bytes({*range(256)} - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})

_CONTAINERS: Final = (dict, list, tuple)

_TORN: Final = "the session was changed by another thread while it was encoded"

_ONLY_STR: Final = frozenset({str})

_OF: Final = {"session": "manager", "cache": "cache"}

_ATOMS: Final = (str, bytes, int, float, type(None), Enum)

_split: Final = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw]).decode
pack: Final = msgspec.msgpack.Encoder().encode
"""As `Values.encode`, but without hooks, and with msgspec's own errors. It is faster."""
_decode: Final = msgspec.msgpack.Decoder(dict[Any, Any]).decode
_decode_any: Final = msgspec.msgpack.Decoder().decode


class Values:
    """How an application's values are encoded, with its hooks and its limit of size.

    `enc_hook(value)` turns a value of a type that msgspec doesn't know into one that it knows,
    or raises NotImplementedError. `dec_hook(type, value)` restores it in `get_as`. These are
    msgspec's hooks. pydantic's models and secrets need none. `max_size` is in encoded bytes.
    """

    __slots__ = ("_dec_hook", "_enc_hook", "_where", "max_size")

    def __init__(
        self,
        *,
        max_size: int,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
        where: str = "session",
    ) -> None:
        self.max_size = max_size
        self._where = where  # what errors say that the values are in
        self._enc_hook = enc_hook
        self._dec_hook = dec_hook

    def encode(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes of a session's data. `SessionEncodeError` names what can't be stored."""
        try:
            return self._encode(data)
        except RecursionError as exc:
            deep = (k for k, v in list(data.items()) if not self._encodes(v))
            raise _too_deep(deep, self._where) from exc
        except SessionEncodeError:
            raise
        except Exception as exc:
            path, kind = self._culprit(data)
            raise SessionEncodeError(
                f"{self._where}{path} can't be stored: {kind} ({exc}). "
                f"Store plain data, or give the {_OF[self._where]} an enc_hook for this type"
            ) from exc

    def encode_value(self, key: Any, value: Any) -> bytes:
        """The bytes of the value of one key. Raises what `encode` raises."""
        try:
            return self._encode(value)
        except Exception:
            self.encode({key: value})  # raises an error that names the place
            raise

    def check(self, encoded: bytes, before: bytes = EMPTY) -> None:
        """Raise `SessionEncodeError` for data above a limit: size, depth, or number of containers.

        `before`: the data that were stored. If they are above a limit already (it may be newer
        than they are), they may stay so, or shrink, but not grow.
        """
        if len(encoded) > self.max_size and len(encoded) > len(before):
            sizes = {key: len(value) for key, value in split(encoded).items()}
            raise SessionEncodeError(
                f"the session is {len(encoded)} bytes, over max_size={self.max_size}; "
                f"its largest keys, in bytes: {_largest(sizes)}"
            )
        # There are at most so many containers, and so at most so many levels.
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
        """The same values under their keys as they are stored: an Enum member's is its value."""
        if {*map(type, data)} <= _ONLY_STR:
            return data
        return {self.stored_key(key): data[key] for key in _listed(data) if key in data}

    def stored_key(self, key: Any) -> Any:
        """The key that comes back when this one is stored and loaded."""
        try:
            (stored,) = _decode(self._encode({key: None}))
        except Exception:  # noqa: BLE001 - it can't be stored: the one who encodes it gets the error
            return key
        return stored

    def encodes_to(self, value: Any, raw: bytes) -> bool:
        """Whether these are the bytes of the value. False if it can't be encoded."""
        try:
            return self._encode(value) == raw
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it isn't stored as these
            return False

    def parts_of(self, value: Any, key_length: int) -> Iterable[Any]:
        """The objects that a value consists of, one level down.

        Keys of a dict are left out if they are texts of at most `key_length` characters.
        """
        if isinstance(value, dict):
            keys = [k for k in _listed(value) if not isinstance(k, str) or len(k) > key_length]
            return [*keys, *value.values()]
        if isinstance(value, (list, tuple, set, frozenset)):
            return _listed(value)
        if isinstance(value, _ATOMS):
            return ()
        if fields := _fields(value):
            return [getattr(value, name) for name in fields]
        try:
            return (self._from_unknown(value),)
        except Exception:  # noqa: BLE001 - a hook doesn't know it, and so it has been encoded
            return ()  # without one, such as a datetime

    def convert(self, key: str, value: Any, type: type[T]) -> T:
        """The value of a key, as it was loaded, as a `type`. ValueError if it doesn't fit."""
        return convert(key, value, type, self._dec_hook, self._where)

    def _encode(self, value: Any) -> bytes:
        try:
            return pack(value)
        except TypeError:
            return self._encode_with_hooks(value)

    def _encode_with_hooks(self, value: Any) -> bytes:
        """The bytes of a value that contains values of unknown types.

        msgspec would call a hook in the middle of a list or dict, and it crashes if another thread
        changes this list or dict while the hook runs. So the hook runs afterwards:

        1. One encoding collects the unknown values, and another has a random mark for each.
        2. Each unknown value is encoded on its own, with the hook.
        3. These bytes replace the marks.
        """
        unknown, mark = list[Any](), urandom(16)
        collecting = msgspec.msgpack.Encoder(enc_hook=unknown.append)
        marking = msgspec.msgpack.Encoder(enc_hook=partial(next, repeat(mark)))
        # No other thread runs between the start of the first and the end of the second encoding,
        # since both, and their hooks, are written in C, and map() calls both without any Python.
        _, marked = map(msgspec.msgpack.Encoder.encode, (collecting, marking), (value, value))
        first, *known = marked.split(pack(mark))
        if len(known) != len(unknown):
            raise SessionEncodeError(_TORN)
        parts = [first]
        for each, following in zip(unknown, known, strict=True):
            parts += self._encode(self._from_unknown(each)), following
        return b"".join(parts)

    def _from_unknown(self, value: Any) -> Any:
        if self._enc_hook is not None:
            try:
                return self._enc_hook(value)
            except NotImplementedError:
                pass  # the hook doesn't know this type either
        if hasattr(value, "model_dump"):  # pydantic's; with mode="json" it would mask secrets
            return value.model_dump(round_trip=True, by_alias=False)
        if hasattr(value, "get_secret_value"):
            return value.get_secret_value()
        raise NotImplementedError("no enc_hook knows it")

    def _culprit(self, value: Any) -> tuple[str, str]:
        """The path to the value that can't be encoded, and what it is."""
        path = ""
        for _ in range(MAX_DEPTH):
            children = _children(value)
            child = next((c for c in children if not self._encodes(c[1])), None)
            if child is None:
                break
            path, value = path + child[0], child[1]
        if isinstance(value, dict):
            for key in _listed(value):
                if not self._encodes({key: None}):
                    return path, f"a key of type {_kind(key)}"
        return path, f"a value of type {_kind(value)}"

    def _encodes(self, value: Any) -> bool:
        try:
            self._encode(value)
        except Exception:  # noqa: BLE001 - any error at all means that it can't be stored
            return False
        return True


def _too_deep(keys: Iterable[Any], where: str = "session") -> SessionEncodeError:
    where = next((f"{where}[{key!r}]" for key in keys), f"the {where}")
    return SessionEncodeError(f"{where} is nested deeper than {MAX_DEPTH} levels")


def decode(encoded: bytes) -> dict[Any, Any]:
    """The data of a session. ValueError if the bytes are none."""
    try:
        return _decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError("not a session's data") from exc


@cache  # it makes a type
def reader(key: str) -> Callable[[bytes], Any]:
    """A function that returns one key's value from a session's encoded data, or None.

    It decodes nothing else. It raises ValueError if the bytes are no session's data.
    """
    field = ("value", Any, None)
    try:
        one_key = msgspec.defstruct("OneKey", [field], rename={"value": key}, gc=False)
    except ValueError:  # msgspec doesn't take every key: none with a quotation mark, for example
        return lambda encoded: decode(encoded).get(key)
    read: Callable[[bytes], Any] = msgspec.msgpack.Decoder[Any](one_key).decode

    def read_key(encoded: bytes) -> Any:
        try:
            return read(encoded).value
        except (msgspec.MsgspecError, RecursionError):  # such as where another key is an int
            return decode(encoded).get(key)

    return read_key


def decode_value(encoded: bytes) -> Any:
    """One value, in the types that MessagePack has."""
    return _decode_any(encoded)


def raw(encoded: bytes) -> msgspec.Raw:
    """Bytes that are encoded already, to be put into another encoding as they are."""
    return msgspec.Raw(encoded)


def split(encoded: bytes) -> dict[Any, bytes]:
    """The encoded value of each top-level key."""
    return {key: bytes(raw) for key, raw in _split(encoded).items()}


def join(parts: Mapping[Any, bytes]) -> bytes:
    """The inverse of `split`."""
    return pack({key: msgspec.Raw(value) for key, value in parts.items()})


def replace(encoded: bytes, key: Any, was: bytes, now: bytes) -> bytes:
    """The data with another value for this key, if its value is still `was`."""
    parts = _split(encoded)
    if was == now or key not in parts or bytes(parts[key]) != was:
        return encoded
    parts[key] = msgspec.Raw(now)
    return pack(parts)


def changes(before: Mapping[Any, bytes], after: Mapping[Any, bytes]) -> Changes:
    """What leads from one `split` to another."""
    changed: Changes = {k: v for k, v in after.items() if before.get(k) != v}
    changed.update({k: None for k in before if k not in after})
    return changed


def apply(encoded: bytes, changed: Changes) -> bytes:
    """The data with these changes."""
    parts = split(encoded)
    for key, value in changed.items():
        if value is None:
            parts.pop(key, None)
        else:
            parts[key] = value
    return join(parts)


def _children(value: Any) -> list[tuple[str, Any]]:
    """The values in a value, each with its step of the path to it."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", child) for key, child in _listed(value.items())]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(f"[{index}]", child) for index, child in enumerate(_listed(value))]
    return [(f".{name}", getattr(value, name)) for name in _fields(value)]


def _fields(value: Any) -> list[str]:
    """The names of the fields that a Struct, a dataclass or an attrs object has."""
    kind: Any = value.__class__
    names: Any = getattr(kind, "__struct_fields__", getattr(kind, "__dataclass_fields__", ()))
    names = names or [field.name for field in getattr(kind, "__attrs_attrs__", ())]
    return [name for name in names if hasattr(value, name)]


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
    """The number of dicts and lists in the value of each key."""
    levels = {key: _levels(decode_value(raw)) for key, raw in split(encoded).items()}
    return {key: sum(map(len, each)) for key, each in levels.items()}


def _levels(value: Any) -> Iterator[list[Any]]:
    """The dicts and lists of a value, level by level. The outermost level comes first."""
    level: list[Any] = [value] if isinstance(value, _CONTAINERS) else []
    while level:
        yield level
        level = [
            child
            for container in level
            for child in (_both(container) if isinstance(container, dict) else container)
            if isinstance(child, _CONTAINERS)
        ]


def _both(value: Any) -> tuple[Any, ...]:
    """Keys and values of a dict: a key that is a tuple is a level, too."""
    return (*value, *value.values())


def _listed(value: Any) -> list[Any]:
    """A copy, made in one step: a thread may change the original."""
    return list(value)


def _kind(value: Any) -> str:
    kind: Any = value.__class__
    return name_of(kind)

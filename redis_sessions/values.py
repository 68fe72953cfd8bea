"""What an application keeps in a session, as MessagePack: encode, compare key by key, convert.

Nothing here knows of tokens, seals or stores. The encoded bytes decide what counts as a change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from redis_sessions.errors import SessionEncodeError

__all__ = ["EMPTY", "MAX_DEPTH", "REMOVED", "Changes", "Values"]

T = TypeVar("T")

EMPTY: Final = b"\x80"
"""An empty session, encoded."""

MAX_DEPTH: Final = 100
"""Levels of nesting: far below what the recursion limit of any supported Python decodes."""

REMOVED: Final = None
"""What a key that was removed has in `Changes`, in place of its encoded value."""

Changes = dict[Any, "bytes | None"]

# Bytes that open no MessagePack map or array: what is left of an encoding without them
# bounds its number of containers, and so its depth, from above.
_NO_CONTAINERS: Final = bytes({*range(256)} - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})

# Where msgspec says that a value doesn't fit.
_PATH: Final = re.compile(r" - at `(\$[^`]*)`$")

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

    __slots__ = ("_dec_hook", "_enc_hook", "_hook_ran", "max_size", "pack")

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
        self._hook_ran = False
        self.pack = msgspec.msgpack.Encoder(enc_hook=self._from_unknown).encode
        """As `encode`, with the errors that msgspec and the hooks raise."""

    def encode(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes of a session's data; `SessionEncodeError` names what can't be stored."""
        try:
            return self.pack(data)
        except RecursionError as exc:
            raise _too_deep(k for k, v in data.items() if not self._encodes(v)) from exc
        except Exception as exc:
            path, kind = self._culprit(data)
            raise SessionEncodeError(
                f"session{path} can't be stored: {kind} ({exc}). "
                "Store plain data, or give the manager an enc_hook for this type"
            ) from exc

    def encode_value(self, key: Any, value: Any) -> bytes:
        """The bytes of one value."""
        try:
            return self.pack(value)
        except Exception:
            self.encode({key: value})  # raises, and says where
            raise

    def check(self, encoded: bytes, before: bytes = EMPTY) -> None:
        """Refuse what is too large, too deep, or was torn by another thread while encoded.

        `before`: what was stored, and so has been checked.
        """
        if len(encoded) > self.max_size:
            sizes = sorted(split(encoded).items(), key=lambda part: len(part[1]), reverse=True)
            largest = ", ".join(f"{key!r} {len(value)}" for key, value in sizes[:3])
            raise SessionEncodeError(
                f"the session is {len(encoded)} bytes, over max_size={self.max_size}; "
                f"its largest keys, in bytes: {largest}"
            )
        hook_ran, self._hook_ran = self._hook_ran, False
        if hook_ran or _may_be_deep(encoded):
            try:
                deep = _deep_keys(encoded, EMPTY) if hook_ran else _deep_keys(encoded, before)
            except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                raise SessionEncodeError(
                    "the session was changed by another thread while it was encoded"
                ) from exc
            if deep:
                raise _too_deep(deep)

    def convert(self, key: str, value: Any, type: type[T]) -> T:
        """The value of a key, as it was loaded, as a `type`; ValueError if it doesn't fit."""
        if value.__class__ is type:
            same: T = value
            return same
        try:
            return msgspec.convert(value, type, dec_hook=self._to_unknown)
        except msgspec.ValidationError as exc:
            # Not its text, nor the chain: pydantic's quotes the value.
            where = _PATH.search(str(exc))
            at = f" at {where[1]}" if where else ""
            which = f": {exc.__cause__}" if isinstance(exc.__cause__, _MisfitError) else ""
            told = f"session[{key!r}], as it is stored, doesn't fit {_name(type)}{at}{which}"
            raise ValueError(told) from None

    def _from_unknown(self, value: Any) -> Any:
        self._hook_ran = True
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

    def _to_unknown(self, type: type[Any], value: Any) -> Any:
        if isinstance(value, type):
            return value
        if hasattr(type, "model_validate"):
            return _validate(type, value)
        if self._dec_hook is not None:
            return self._dec_hook(type, value)
        raise NotImplementedError(f"no dec_hook restores a {_name(type)}")

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

    def _encodes(self, value: Any) -> bool:
        try:
            self.pack(value)
        except Exception:  # noqa: BLE001 - whatever it is, this is the way down
            return False
        return True


class _MisfitError(ValueError):
    """What a model refused, by its fields' names."""


def _validate(type: Any, value: Any) -> Any:
    try:
        return type.model_validate(value, by_name=True, by_alias=False, strict=False)
    except ValueError as exc:
        errors: list[Any] = getattr(exc, "errors", list)()
        fields = {".".join(map(str, error["loc"])) for error in errors} - {""}
        raise _MisfitError(", ".join(sorted(fields)) or "its validator refuses it") from None


def _too_deep(keys: Iterable[Any]) -> SessionEncodeError:
    key = next(iter(keys), None)
    return SessionEncodeError(f"session[{key!r}] is nested deeper than {MAX_DEPTH} levels")


def decode(encoded: bytes) -> dict[Any, Any]:
    """Session data; raises ValueError for bytes that are none."""
    try:
        return _decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError("not a session's data") from exc


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


def _may_be_deep(encoded: bytes) -> bool:
    return len(encoded.translate(None, _NO_CONTAINERS)) > MAX_DEPTH


def _deep_keys(encoded: bytes, before: bytes) -> list[Any]:
    known = split(before)
    return [key for key, raw in split(encoded).items() if known.get(key) != raw and _is_deep(raw)]


def _is_deep(raw: bytes) -> bool:
    try:
        return _is_deeper([_decode_any(raw)], MAX_DEPTH)
    except RecursionError:
        return True


def _is_deeper(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            child
            for container in level
            for child in (_parts(container) if isinstance(container, dict) else container)
            if isinstance(child, (dict, list, tuple))
        ]
        if not level:
            return False
    return True


def _parts(value: Any) -> tuple[Any, ...]:
    return (*value, *value.values())  # a key may be a tuple


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items())


def _keys(value: Any) -> list[Any]:
    return list(value)


def _members(value: Any) -> list[Any]:
    return list(value)


def _kind(value: Any) -> str:
    kind: Any = value.__class__
    return _name(kind)


def _name(type: type[Any]) -> str:
    module = type.__module__
    return type.__qualname__ if module == "builtins" else f"{module}.{type.__qualname__}"

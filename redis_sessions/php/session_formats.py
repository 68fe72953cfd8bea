r"""`$_SESSION` as PHP stores it: `session.serialize_handler`, and what frameworks make of it.

| name | for example `$_SESSION = ["a" => 1]` |
|---|---|
| `php` (PHP's default) | `a|i:1;` |
| `php_serialize` | `a:1:{s:1:"a";i:1;}` |
| `php_binary` | `\x01ai:1;` |
| `igbinary`, `msgpack` | what these extensions write |
| `json` | `{"a":1}` |
| `laravel` | `s:18:"a:1:{s:1:"a";i:1;}";` |
| `laravel_json` (`session.serialization`) | `s:7:"{"a":1}";` |

Laravel serializes twice: its session, and for its cache the string that this gave. Symfony stores
what PHP's serializer gives it, with its attributes in `$_SESSION["_sf2_attributes"]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, get_args

from redis_sessions.php import igbinary, msgpack, serialize
from redis_sessions.php.data import (
    MAX_INT,
    MAX_SIZE,
    MIN_INT,
    Budget,
    PhpFormatError,
    integer,
    items_of,
    mapping_of,
    octets,
    text,
    unknown,
)

__all__ = ["SERIALIZERS", "Serializer", "decode", "encode", "replace"]

Serializer = Literal[
    "php", "php_serialize", "php_binary", "igbinary", "msgpack", "json", "laravel", "laravel_json"
]

SERIALIZERS: Final[tuple[Serializer, ...]] = get_args(Serializer)
"""The names of all formats."""

_Decode = Callable[[bytes, Budget], dict["str | bytes", Any]]
_Encode = Callable[[Mapping[Any, Any]], bytes]

_LONGEST_NAME: Final = 127
"""Bytes of a name in `php_binary`. A greater number says that there is no value."""


_LONGEST_NUMBER: Final = 400


def decode(
    raw: bytes, serializer: Serializer, *, max_size: int = MAX_SIZE
) -> dict[str | bytes, Any]:
    """`$_SESSION`, as `redis_sessions.php.data` says. Its keys are str, or bytes if not UTF-8.

    `PhpFormatError` is the only error, whatever the bytes are: if they aren't in this format, if
    they or the texts in them have more than `max_size` bytes, or above `MAX_DEPTH` and
    `MAX_ELEMENTS`. No bytes are an empty session.
    """
    return _decode(raw, serializer, Budget(max_size), max_size)


def encode(data: Mapping[Any, Any], serializer: Serializer) -> bytes:
    """What PHP decodes as this `$_SESSION`.

    `PhpFormatError` for what PHP, or this serializer, can't store: other types, ints beyond 64
    bits, `|` in a key with `php`, keys of more than 127 bytes with `php_binary`, keys such as "5"
    with the four that store names (PHP skips them), and with JSON bytes that aren't UTF-8, or NAN.
    """
    try:
        return _FORMATS[serializer][1](data)
    except RecursionError as exc:
        raise PhpFormatError("nested too deeply") from exc


def replace(
    raw: bytes,
    serializer: Serializer,
    values: Mapping[str, Any],
    removed: Iterable[str] = (),
    *,
    max_size: int = MAX_SIZE,
) -> bytes:
    """The payload with these values under their keys; all others are written as they were read.

    `PhpFormatError` as `decode` and `encode`, and if two places in the payload share a value: it
    would be two values afterwards.
    """
    budget = Budget(max_size)
    data = _decode(raw, serializer, budget, max_size)
    if budget.linked:
        raise PhpFormatError("it has references, which would be lost if it was written")
    data.update(values)
    for key in removed:
        data.pop(key, None)
    return encode(data, serializer)


def _decode(
    raw: bytes, serializer: Serializer, budget: Budget, max_size: int
) -> dict[str | bytes, Any]:
    if len(raw) > max_size:
        raise PhpFormatError(f"{len(raw)} bytes, over max_size={max_size}")
    if not raw:
        return {}
    try:
        return _FORMATS[serializer][0](raw, budget)
    except RecursionError as exc:  # far less deep than MAX_DEPTH, but in a deep stack
        raise PhpFormatError("nested too deeply") from exc


def _from_php(raw: bytes, budget: Budget) -> dict[str | bytes, Any]:
    reader, data = serialize.Reader(raw, budget), dict[str | bytes, Any]()
    budget.enter(0)
    while not reader.at_end:
        bar = raw.find(b"|", reader.at)
        if bar < 0:
            raise reader.wrong("no name")
        name = budget.text(raw[reader.at : bar])
        budget.count(1)
        reader.at = bar + 1
        data[name] = reader.value()
    return data


def _to_php(data: Mapping[Any, Any]) -> bytes:
    named = _named(data)
    if any(b"|" in name for name, _ in named):
        raise PhpFormatError("a key has a |, which the serializer php can't store")
    return b"".join(name + b"|" + serialize.dumps(each, 2) for name, each in named)


def _from_php_binary(raw: bytes, budget: Budget) -> dict[str | bytes, Any]:
    reader, data = serialize.Reader(raw, budget), dict[str | bytes, Any]()
    budget.enter(0)
    while not reader.at_end:
        start = reader.at + 1
        reader.at = start + (raw[reader.at] & _LONGEST_NAME)
        if reader.at > len(raw):
            raise reader.wrong("no name")
        name = budget.text(raw[start : reader.at])
        budget.count(1)
        if raw[start - 1] <= _LONGEST_NAME:
            data[name] = reader.value()
    return data


def _to_php_binary(data: Mapping[Any, Any]) -> bytes:
    named = _named(data)
    if any(len(name) > _LONGEST_NAME for name, _ in named):
        raise PhpFormatError("a key is longer than php_binary can store")
    return b"".join(bytes([len(name)]) + name + serialize.dumps(each, 2) for name, each in named)


def _named(data: Mapping[Any, Any]) -> list[tuple[bytes, Any]]:
    """The keys and values of what PHP stores by names, which no number is."""
    named = list[tuple[bytes, Any]]()
    for key, each in items_of(dict(data), 1):
        if isinstance(key, int):
            raise PhpFormatError(f"PHP doesn't store the key {key} with this serializer")
        named.append((key, each))
    return named


def _from_json(raw: bytes, budget: Budget) -> dict[str | bytes, Any]:
    _check_elements(raw)
    try:
        value = json.loads(
            raw.decode(), parse_constant=_no_number, parse_int=_json_int, parse_float=_json_float
        )
    except ValueError:
        value = None  # no array either; and this error holds the payload
    return mapping_of(budget.copy(value))  # it counts


def _check_elements(raw: bytes) -> None:
    """Refuse too many elements before they are built. Each comma outside of a string has one."""
    outside = raw.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    Budget().count(sum(part.count(b",") for part in outside))


def _no_number(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity aren't JSON


def _json_int(digits: str) -> int | float:
    """As PHP: a number that doesn't fit into an int is a float."""
    if len(digits) <= 20 and MIN_INT <= int(digits) <= MAX_INT:
        return int(digits)
    return _json_float(digits)


def _json_float(digits: str) -> float:
    # To read a number takes time that grows with the square of its length.
    return float(digits) if len(digits) <= _LONGEST_NUMBER else _no_number(digits)


def _to_json(data: Mapping[Any, Any]) -> bytes:
    plain = _plain(dict(data), 1)
    try:
        return json.dumps(
            plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        ).encode()
    except ValueError as exc:
        raise PhpFormatError("JSON has neither NAN nor INF") from exc


def _plain(value: Any, depth: int) -> Any:
    match value:
        case None | bool() | float():
            return value
        case int():
            return integer(value)
        case str() | bytes():
            return _utf8(octets(value))
        case list() | tuple():
            return [_plain(each, depth + 1) for _, each in items_of(value, depth)]
        case dict():
            return {
                str(key) if isinstance(key, int) else _utf8(key): _plain(each, depth + 1)
                for key, each in items_of(value, depth)
            }
        case _:
            raise unknown(value)


def _utf8(raw: bytes) -> str:
    string = text(raw)
    if isinstance(string, bytes):
        raise PhpFormatError("bytes that aren't UTF-8, which JSON can't store")
    return string


def _whole(
    loads: Callable[[bytes, Budget], Any], dumps: Callable[[Any], bytes]
) -> tuple[Callable[[bytes, Budget], dict[str | bytes, Any]], Callable[[Mapping[Any, Any]], bytes]]:
    """A format that is one serialized array."""
    return (lambda raw, budget: mapping_of(loads(raw, budget))), (lambda data: dumps(dict(data)))


def _laravel(inner: tuple[_Decode, _Encode]) -> tuple[_Decode, _Encode]:
    """A format whose bytes are a string that was serialized once more."""
    decode_inner, encode_inner = inner

    def decode_outer(raw: bytes, budget: Budget) -> dict[str | bytes, Any]:
        string = serialize.loads(raw, Budget(len(raw)))
        if not isinstance(string, (str, bytes)):
            raise PhpFormatError("no string of Laravel's")
        return decode_inner(octets(string), budget)

    return decode_outer, lambda data: serialize.dumps(encode_inner(data))


def _named_only(dumps: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def checked(data: Any) -> bytes:
        _named(data)
        return dumps(data)

    return checked


_WHOLE: Final = _whole(serialize.loads, serialize.dumps)
_JSON: Final = (_from_json, _to_json)

_FORMATS: Final[dict[Serializer, tuple[_Decode, _Encode]]] = {
    "php": (_from_php, _to_php),
    "php_serialize": _WHOLE,
    "php_binary": (_from_php_binary, _to_php_binary),
    "igbinary": _whole(igbinary.loads, _named_only(igbinary.dumps)),
    "msgpack": _whole(msgpack.loads, _named_only(msgpack.dumps)),
    "json": _JSON,
    "laravel": _laravel(_WHOLE),
    "laravel_json": _laravel(_JSON),
}

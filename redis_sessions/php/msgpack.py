"""MessagePack as PHP's extension msgpack writes it.

Strings are `str` without being UTF-8 always, so that no usual library reads them. A map whose first
key is nil is no array: `{nil: "Cart", "size": 1}` is an object, and `{nil: 4, 0: 2}` refers to the
array or object of number 2. `{nil: 1, nil: "Cart"}` is an object that a reference leads to. Only
arrays, maps and objects have numbers, from 1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from redis_sessions.php.data import (
    Budget,
    PhpFormatError,
    PhpObject,
    array_of,
    dict_of,
    integer,
    items_of,
    key_of,
    octets,
    unknown,
)

__all__ = ["dumps", "loads"]

# What an int beside nil means (`enum msgpack_serialize_type`).
_REFERENCE, _SERIALIZABLE, _ENUM = 1, 3, 6
_HANDLE: Final = 4
_REFERS: Final = {2, _HANDLE, 5}

_CONSTANTS: Final[dict[int, Any]] = {0xC0: None, 0xC2: False, 0xC3: True}
# From 0xCA on: float and double, unsigned and signed ints of 1, 2, 4 and 8 bytes.
_FORMATS: Final = {code: struct.Struct(f">{form}") for code, form in enumerate("fdBHIQbhiq", 0xCA)}
# The codes of a kind, each with the bytes of the length that follows.
_STRINGS: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAYS: Final = {0xDC: 2, 0xDD: 4}
_MAPS: Final = {0xDE: 2, 0xDF: 4}

_OPEN: Final = object()
"""Stands for an array or object that hasn't ended."""

_NO_MARK: Final = object()
"""Stands for what a map without nil has beside it."""


def loads(raw: bytes, budget: Budget | None = None) -> Any:
    """The value that `msgpack_serialize()` wrote. `PhpFormatError` if it isn't one."""
    reader = _Reader(raw, budget or Budget())
    value = reader.value()
    if reader.at != len(raw):
        raise PhpFormatError(f"more than one value at byte {reader.at}")
    return value


def dumps(value: Any) -> bytes:
    """What `msgpack_unserialize()` reads as this value. `PhpFormatError` if PHP can't have it."""
    out = list[bytes]()
    _write(value, out.append, 1)
    return b"".join(out)


class _Reader:
    __slots__ = ("_budget", "_raw", "_values", "at")

    def __init__(self, raw: bytes, budget: Budget) -> None:
        self._raw = raw
        self._budget = budget
        self._values = list[Any]()
        self.at = 0

    def value(self) -> Any:
        code = self._byte()
        if code in _FORMATS:
            return self._number(_FORMATS[code])
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if (length := self._length(code, 0xA0, 32, _STRINGS)) is not None:
            return self._budget.text(self._take(length))
        if (count := self._length(code, 0x90, 16, _ARRAYS)) is not None:
            return self._numbered(self._array, count)
        if (count := self._length(code, 0x80, 16, _MAPS)) is not None:
            return self._numbered(self._map, count)
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        raise self._wrong("no value")

    def _number(self, form: struct.Struct) -> int | float:
        (number,) = form.unpack(self._take(form.size))
        return integer(number) if isinstance(number, int) else number

    def _length(self, code: int, first: int, below: int, codes: dict[int, int]) -> int | None:
        """The length that follows or is in this code, or None if the code is of another kind."""
        if first <= code < first + below:
            return code - first
        if code in codes:
            return int.from_bytes(self._take(codes[code]), "big")
        return None

    def _numbered(self, read: Callable[[int], Any], count: int) -> Any:
        number = len(self._values)
        self._values.append(_OPEN)
        self._budget.enter(count)
        value = read(count)
        if number < len(self._values):
            self._values[number] = value
        self._budget.leave()
        return value

    def _array(self, count: int) -> list[Any]:
        return [self.value() for _ in range(count)]

    def _map(self, count: int) -> Any:
        mark = self._mark(count)
        if mark == _REFERENCE:  # PHP has a reference to the array or object that follows
            count -= 1
            mark = self._mark(count)
        if mark is _NO_MARK:
            return array_of(self._items(count))
        if isinstance(mark, (str, bytes)):
            return self._object(mark, count - 1)
        if count != 2 or not isinstance(mark, int):
            raise self._wrong("a map of an unknown kind")
        key, value = self.value(), self.value()
        return self._marked(mark, key, value)

    def _mark(self, count: int) -> Any:
        """What is beside nil, if that is the next key."""
        if not count or self._raw[self.at : self.at + 1] != b"\xc0":
            return _NO_MARK
        self.at += 1
        return self.value()

    def _object(self, name: str | bytes, count: int) -> PhpObject:
        if count == 1 and self._raw[self.at : self.at + 1] == b"\xc0":
            self.at += 1
            return PhpObject(name, self.value(), "unserialize")
        return PhpObject(name, dict_of(self._items(count)))

    def _marked(self, mark: int, key: Any, value: Any) -> Any:
        if mark in _REFERS and isinstance(value, int):
            if not 0 < value <= len(self._values) or self._values[value - 1] is _OPEN:
                raise self._wrong("a reference to nothing, or to what it is in")
            self._budget.linked = True
            found = self._values[value - 1]
            if mark != _HANDLE:
                # PHP's writer gives these no number. (Its reader does, and reads others wrong.)
                self._values.pop()
            return self._budget.copy(found)
        if not isinstance(key, (str, bytes)) or not isinstance(value, (str, bytes)):
            raise self._wrong("a map of an unknown kind")
        if mark == _ENUM:
            return PhpObject(key, value, "enum")
        if mark == _SERIALIZABLE:
            return PhpObject(key, octets(value), "serializable")
        raise self._wrong("a map of an unknown kind")

    def _items(self, count: int) -> dict[str | bytes | int, Any]:
        return {self._key(): self.value() for _ in range(count)}

    def _key(self) -> str | bytes | int:
        code = self._raw[self.at : self.at + 1]
        key = self.value() if code not in _CONTAINERS else None
        if isinstance(key, bool) or not isinstance(key, (str, bytes, int)):
            raise self._wrong("no key")
        return key_of(key)

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, length: int) -> bytes:
        taken = self._raw[self.at : self.at + length]
        if len(taken) < length:
            raise self._wrong("the end")
        self.at += length
        return taken

    def _wrong(self, what: str) -> PhpFormatError:
        return PhpFormatError(f"{what} at byte {self.at}")


_CONTAINERS: Final = {bytes([code]) for code in [*range(0x80, 0xA0), *_ARRAYS, *_MAPS]}


def _write(value: Any, put: Callable[[bytes], None], depth: int) -> None:
    match value:
        case None:
            put(b"\xc0")
        case bool():
            put(b"\xc3" if value else b"\xc2")
        case int():
            put(_int(integer(value)))
        case float():
            put(struct.pack(">Bd", 0xCB, value))
        case str() | bytes():
            _write_string(value, put)
        case list() | tuple() | dict():
            _write_array(value, put, depth)
        case PhpObject(name, state, "enum" | "serializable" as kind):
            put(b"\x82\xc0" + _int(_ENUM if kind == "enum" else _SERIALIZABLE))
            _write_string(name, put)
            _write_string(state, put)
        case PhpObject(name, state, "unserialize"):
            put(b"\x82\xc0")
            _write_string(name, put)
            put(b"\xc0")
            _write(state, put, depth + 1)
        case PhpObject(name, state):
            items = items_of(state, depth)
            put(_head(len(items) + 1, 0x80, 16, _MAPS) + b"\xc0")
            _write_string(name, put)
            # PHP takes an int for another property than the one of this name.
            named = [(b"%d" % key if isinstance(key, int) else key, each) for key, each in items]
            _write_items(named, put, depth)
        case _:
            raise unknown(value)


def _write_array(value: Any, put: Callable[[bytes], None], depth: int) -> None:
    items = items_of(value, depth)
    if [key for key, _ in items] != [*range(len(items))]:
        put(_head(len(items), 0x80, 16, _MAPS))
        _write_items(items, put, depth)
        return
    put(_head(len(items), 0x90, 16, _ARRAYS))
    for _, each in items:
        _write(each, put, depth + 1)


def _write_items(
    items: Iterable[tuple[bytes | int, Any]], put: Callable[[bytes], None], depth: int
) -> None:
    for key, each in items:
        put(_int(key)) if isinstance(key, int) else _write_string(key, put)
        _write(each, put, depth + 1)


def _write_string(value: str | bytes, put: Callable[[bytes], None]) -> None:
    string = octets(value)
    put(_head(len(string), 0xA0, 32, {0xD9: 1, 0xDA: 2, 0xDB: 4}))
    put(string)


def _int(number: int) -> bytes:
    if -32 <= number < 128:
        return struct.pack("b" if number < 0 else "B", number)
    codes = (
        {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8} if number < 0 else {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
    )
    for code, size in codes.items():
        try:
            return bytes([code]) + number.to_bytes(size, "big", signed=number < 0)
        except OverflowError:
            continue
    raise AssertionError(number)  # it has 64 bits


def _head(length: int, first: int, below: int, codes: dict[int, int]) -> bytes:
    """The shortest code for this length, with the length."""
    if length < below:
        return bytes([first + length])
    code = next(code for code, size in codes.items() if length < 1 << (8 * size))
    return bytes([code]) + length.to_bytes(codes[code], "big")

"""igbinary's serialization, version 2: what `igbinary_serialize()` writes.

For example, `["a" => 1]` is `00000002 14 01 11 01 61 06 01`: the version, an array of one element,
a string of one byte, a positive int of one byte. Two tables number what came before, from 0: one
all strings, and one all arrays, objects, and other values that a reference leads to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
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

_VERSIONS: Final = (b"\0\0\0\1", b"\0\0\0\2")

_NULL, _FALSE, _TRUE, _DOUBLE, _EMPTY = 0x00, 0x04, 0x05, 0x0C, 0x0D
_ENUM, _REFERENCE = 0x27, 0x25

# The codes of a kind, each with the bytes of the number that follows.
_ARRAY_REFS: Final = {0x01: 1, 0x02: 2, 0x03: 4}
_STRING_IDS: Final = {0x0E: 1, 0x0F: 2, 0x10: 4}
_STRINGS: Final = {0x11: 1, 0x12: 2, 0x13: 4, 0x26: 8}
_ARRAYS: Final = {0x14: 1, 0x15: 2, 0x16: 4}
_OBJECTS: Final = {0x17: 1, 0x18: 2, 0x19: 4}
_OBJECT_IDS: Final = {0x1A: 1, 0x1B: 2, 0x1C: 4}
_SERIALIZABLES: Final = {0x1D: 1, 0x1E: 2, 0x1F: 4}
_OBJECT_REFS: Final = {0x22: 1, 0x23: 2, 0x24: 4}
_INTS: Final = {0x06: 1, 0x08: 2, 0x0A: 4, 0x20: 8}
_NEGATIVE_INTS: Final = {code + 1: size for code, size in _INTS.items()}

_CONTAINERS: Final = _ARRAYS | _OBJECTS | _OBJECT_IDS
_REFERENCES: Final = _ARRAY_REFS | _OBJECT_REFS

_OPEN: Final = object()
"""Stands for an array or object that hasn't ended."""


def loads(raw: bytes, budget: Budget | None = None) -> Any:
    """The value that `igbinary_serialize()` wrote. `PhpFormatError` if it isn't one."""
    if not raw.startswith(_VERSIONS):
        raise PhpFormatError("no version of igbinary that is known")
    reader = _Reader(raw, budget or Budget())
    value = reader.value()
    if reader.at != len(raw):
        raise PhpFormatError(f"more than one value at byte {reader.at}")
    return value


def dumps(value: Any) -> bytes:
    """What `igbinary_unserialize()` reads as this value. `PhpFormatError` if PHP can't have it."""
    out = [_VERSIONS[1]]
    _Writer(out.append).write(value, 1)
    return b"".join(out)


class _Reader:
    __slots__ = ("_budget", "_raw", "_strings", "_values", "at")

    def __init__(self, raw: bytes, budget: Budget) -> None:
        self._raw = raw
        self._budget = budget
        self._strings = list[bytes]()
        self._values = list[Any]()
        self.at = len(_VERSIONS[0])

    def value(self, *, shared: bool = False) -> Any:
        """The next value. `shared`: PHP has a reference here."""
        code = self._byte()
        if code in _CONTAINERS:
            number = len(self._values)
            self._values.append(_OPEN)
            read = self._array if code in _ARRAYS else self._object
            value = self._values[number] = read(code)
            return value
        if code in _REFERENCES:
            return self._referred(self._number(_REFERENCES[code]), shared or code in _OBJECT_REFS)
        if code == _REFERENCE:
            # PHP writes one of these alone. More in a row would need a stack.
            if shared:
                raise self._wrong("a reference to a reference")
            return self.value(shared=True)
        value = self._scalar(code)
        if shared:
            self._values.append(value)
        return value

    def _scalar(self, code: int) -> Any:
        if code in _INTS or code in _NEGATIVE_INTS:
            return self._int(code)
        if (string := self._string(code)) is not None:
            return self._budget.text(string)
        match code:
            case 0x00:
                return None
            case 0x04 | 0x05:
                return code == _TRUE
            case 0x0C:
                return struct.unpack(">d", self._take(8))[0]
            case _:
                raise self._wrong("no value")

    def _int(self, code: int) -> int:
        if code in _INTS:
            return integer(self._number(_INTS[code]))
        return integer(-self._number(_NEGATIVE_INTS[code]))

    def _string(self, code: int) -> bytes | None:
        """A string, or None if the code is of something else."""
        if code == _EMPTY:
            return b""
        if code in _STRINGS:
            return self._new_string(_STRINGS[code])
        return self._known_string(_STRING_IDS[code]) if code in _STRING_IDS else None

    def _new_string(self, size: int) -> bytes:
        string = self._take(self._number(size))
        self._strings.append(string)
        return string

    def _known_string(self, size: int) -> bytes:
        index = self._number(size)
        if index >= len(self._strings):
            raise self._wrong("a string that didn't come before")
        return self._strings[index]

    def _array(self, code: int) -> Any:
        return array_of(self._items(self._number(_ARRAYS[code])))

    def _items(self, count: int) -> dict[str | bytes | int, Any]:
        self._budget.enter(count)
        codes = (self._byte() for _ in range(count))
        # A typed property that has no value yet is null in the place of its name, and no more.
        items = {self._key(code): self.value() for code in codes if code != _NULL}
        self._budget.leave()
        return items

    def _key(self, code: int) -> str | bytes | int:
        if code in _INTS or code in _NEGATIVE_INTS:
            return self._int(code)
        string = self._string(code)
        if string is None:
            raise self._wrong("no key")
        return key_of(self._budget.text(string))

    def _object(self, code: int) -> PhpObject:
        if code in _OBJECTS:
            name = self._budget.text(self._new_string(_OBJECTS[code]))
        else:
            name = self._budget.text(self._known_string(_OBJECT_IDS[code]))
        code = self._byte()
        if code in _ARRAYS:
            return PhpObject(name, dict_of(self._items(self._number(_ARRAYS[code]))))
        if code in _SERIALIZABLES:
            content = self._take(self._number(_SERIALIZABLES[code]))
            self._budget.spend(len(content))
            return PhpObject(name, content, "serializable")
        case = self._string(self._byte()) if code == _ENUM else None
        if case is None:
            raise self._wrong("no object")
        return PhpObject(name, self._budget.text(case), "enum")

    def _referred(self, index: int, linked: bool) -> Any:
        if index >= len(self._values) or self._values[index] is _OPEN:
            raise self._wrong("a reference to nothing, or to what it is in")
        # Without a reference of PHP it is an array that two places have until one is changed.
        self._budget.linked |= linked
        return self._budget.copy(self._values[index])

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, length: int) -> bytes:
        taken = self._raw[self.at : self.at + length]
        if len(taken) < length:
            raise self._wrong("the end")
        self.at += length
        return taken

    def _wrong(self, what: str) -> PhpFormatError:
        return PhpFormatError(f"{what} at byte {self.at}")


class _Writer:
    __slots__ = ("_put", "_strings")

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._strings = dict[bytes, int]()

    def write(self, value: Any, depth: int) -> None:
        match value:
            case None:
                self._put(bytes([_NULL]))
            case bool():
                self._put(bytes([_TRUE if value else _FALSE]))
            case int():
                self._int(value)
            case float():
                self._put(struct.pack(">Bd", _DOUBLE, value))
            case str() | bytes():
                self._string(octets(value))
            case list() | tuple() | dict():
                self._items(value, depth)
            case PhpObject():
                self._object(value, depth)
            case _:
                raise unknown(value)

    def _int(self, value: int) -> None:
        codes = _INTS if value >= 0 else _NEGATIVE_INTS
        self._sized(codes, abs(integer(value)))

    def _string(self, string: bytes) -> None:
        if not string:
            self._put(bytes([_EMPTY]))
        elif (index := self._strings.get(string)) is not None:
            self._sized(_STRING_IDS, index)
        else:
            self._new_string(_STRINGS, string)

    def _new_string(self, codes: dict[int, int], string: bytes) -> None:
        self._strings[string] = len(self._strings)
        self._sized(codes, len(string))
        self._put(string)

    def _items(self, value: Any, depth: int) -> None:
        items = items_of(value, depth)
        self._sized(_ARRAYS, len(items))
        for key, each in items:
            if isinstance(key, int):
                self._int(key)
            else:
                self._string(key)
            self.write(each, depth + 1)

    def _object(self, value: PhpObject, depth: int) -> None:
        name = octets(value.class_name)
        if (index := self._strings.get(name)) is not None:
            self._sized(_OBJECT_IDS, index)
        else:
            self._new_string(_OBJECTS, name)
        if value.kind == "enum":
            self._put(bytes([_ENUM]))
            self._string(octets(value.state))
        elif value.kind == "serializable":
            self._sized(_SERIALIZABLES, len(value.state))
            self._put(octets(value.state))
        else:
            self._items(value.state, depth)

    def _sized(self, codes: dict[int, int], number: int) -> None:
        """The shortest of these codes that holds the number, and the number."""
        code = next(code for code, size in codes.items() if number < 1 << (8 * size))
        self._put(bytes([code]) + number.to_bytes(codes[code], "big"))

"""What PHP's data are in Python, and how much of it one payload may bring.

| PHP | Python |
|---|---|
| null, bool, int, float | None, bool, int, float |
| string | str if it is UTF-8, and bytes if it isn't |
| array with the keys 0, 1, 2 … in this order | list |
| any other array | dict; its keys are str, or bytes if they aren't UTF-8 |
| object, enum | `PhpObject`: a record. No class is looked up, and no code of it runs. |

PHP makes no difference between the keys `"1"` and `1`, so that `"1"` in a dict is PHP's 1 in both
directions. An array that is referred to twice is there twice: what a payload gives is a tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["MAX_DEPTH", "MAX_ELEMENTS", "MAX_SIZE", "Budget", "PhpFormatError", "PhpObject"]

MAX_SIZE: Final = 1 << 20
"""Bytes of a payload, and of all texts in it, unless a caller says otherwise."""

MAX_DEPTH: Final = 64
"""Arrays and objects in one another."""

MAX_ELEMENTS: Final = 1 << 15
"""Elements of all arrays and objects of a payload. To read one takes a microsecond or two."""

MIN_INT: Final = -(1 << 63)
MAX_INT: Final = (1 << 63) - 1

_DECIMAL = re.compile(r"(?:0|-?[1-9][0-9]{0,18})\Z").match


class PhpFormatError(ValueError):
    """A payload that can't be read, or a value that PHP can't have. The message says why.

    It holds no data of the payload.
    """


@dataclass(frozen=True, slots=True)
class PhpObject:
    """An object of PHP as a record: the name of its class, and what was stored of it.

    `kind` says what `state` is:

    - `"object"`: the properties, a dict. The names of private and protected ones have a prefix, as
      PHP writes it, between two characters NUL; `get` finds them without it.
    - `"unserialize"`: what `__serialize()` gave (only msgpack tells this from properties).
    - `"enum"`: the name of the case.
    - `"serializable"`: the bytes that the class wrote itself (`Serializable`).
    """

    class_name: str | bytes
    state: Any
    kind: Literal["object", "unserialize", "enum", "serializable"] = "object"

    def get(self, name: str, default: Any = None) -> Any:
        """The property of this name, whether it is public, protected or private."""
        properties: dict[Any, Any] = self.state if self.kind == "object" else {}
        for key, value in properties.items():
            if isinstance(key, str) and key.rpartition("\0")[2] == name:
                return value
        return default


class Budget:
    """What one payload may still bring. Its methods raise `PhpFormatError` when that is over."""

    __slots__ = ("_bytes", "_depth", "_elements", "linked")

    def __init__(self, max_size: int = MAX_SIZE) -> None:
        self._bytes = max_size
        self._elements = MAX_ELEMENTS
        self._depth = 0
        self.linked = False
        """Whether two places of the payload share a value, so that PHP changes both at once."""

    def enter(self, elements: int) -> None:
        """An array or object of so many elements begins. `leave` ends it."""
        self.count(elements)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PhpFormatError(f"nested deeper than {MAX_DEPTH} levels")

    def leave(self) -> None:
        """The array or object ends."""
        self._depth -= 1

    def count(self, elements: int) -> None:
        """Elements of an array or object."""
        self._elements -= elements
        if self._elements < 0:
            raise PhpFormatError(f"more than {MAX_ELEMENTS} elements")

    def spend(self, length: int) -> None:
        """A text of so many bytes. It counts again wherever it is referred to."""
        self._bytes -= length
        if self._bytes < 0:
            raise PhpFormatError("its texts are longer than max_size")

    def text(self, raw: bytes) -> str | bytes:
        """A string of PHP."""
        self.spend(len(raw))
        return text(raw)

    def copy(self, value: Any) -> Any:
        """The value again, for a second place. It counts again: copies of copies grow fast."""
        kind: Any = value.__class__
        if kind is str or kind is bytes:
            self.spend(len(octets(value)))
        elif kind is list:
            self.enter(len(value))
            value = [self.copy(each) for each in value]
            self.leave()
        elif kind is dict:
            self.enter(len(value))
            value = {self.copy(key): self.copy(each) for key, each in value.items()}
            self.leave()
        elif kind is PhpObject:
            self.enter(0)
            value = PhpObject(self.copy(value.class_name), self.copy(value.state), value.kind)
            self.leave()
        return value


def text(raw: bytes) -> str | bytes:
    """A string of PHP: str, or bytes if it isn't UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def integer(number: int) -> int:
    """The number, if PHP has it: 64 bits."""
    if not MIN_INT <= number <= MAX_INT:
        raise PhpFormatError("an int beyond 64 bits")
    return number


def key_of(key: str | bytes | int) -> str | bytes | int:
    """A key as PHP has it: `"1"` is 1, but `"01"`, `"-0"` and `"1.0"` are strings."""
    if isinstance(key, str) and _DECIMAL(key) and MIN_INT <= int(key) <= MAX_INT:
        return int(key)
    return key


def array_of(items: dict[str | bytes | int, Any]) -> list[Any] | dict[str | bytes, Any]:
    """An array of PHP, from its values under keys as `key_of` gives them."""
    if [*items] == [*range(len(items))]:
        return [*items.values()]
    return dict_of(items)


def dict_of(items: Mapping[str | bytes | int, Any]) -> dict[str | bytes, Any]:
    """The same for what is a dict in any case: `$_SESSION`, and properties."""
    return {str(key) if isinstance(key, int) else key: each for key, each in items.items()}


def mapping_of(value: Any) -> dict[str | bytes, Any]:
    """An array of PHP as a dict, also if it is a list. `PhpFormatError` for anything else."""
    kind: Any = value.__class__
    if kind is list:
        return {str(index): each for index, each in enumerate(value)}
    if kind is not dict:
        raise PhpFormatError("no array")
    array: dict[str | bytes, Any] = value
    return array


def items_of(value: Any, depth: int) -> list[tuple[bytes | int, Any]]:
    """The keys and values of a list, a tuple or a dict, as they are written for PHP.

    `depth` is that of the container, from 1. Raises `PhpFormatError` for what PHP can't have.
    """
    if depth > MAX_DEPTH:
        raise PhpFormatError(f"nested deeper than {MAX_DEPTH} levels")
    array: Any = value
    if not isinstance(value, dict):
        return [*enumerate(array)]
    items: list[tuple[bytes | int, Any]]
    items = [(_written_key(key), each) for key, each in array.items()]
    if len({key for key, _ in items}) < len(items):
        raise PhpFormatError('two keys of a dict are one in PHP, such as 1 and "1"')
    return items


def _written_key(key: Any) -> bytes | int:
    if isinstance(key, bool) or not isinstance(key, (str, bytes, int)):
        raise PhpFormatError(f"PHP has no key of type {type(key).__name__}")
    key = key_of(text(key) if isinstance(key, bytes) else key)
    return integer(key) if isinstance(key, int) else octets(key)


def octets(value: str | bytes) -> bytes:
    """The bytes of a string of PHP."""
    if isinstance(value, bytes):
        return value
    encoded = value.encode(errors="surrogatepass")
    if text(encoded) is encoded:
        raise PhpFormatError("a str that isn't Unicode: half of a surrogate pair")
    return encoded


def unknown(value: Any) -> PhpFormatError:
    """The error for a value of a type that PHP doesn't have."""
    return PhpFormatError(f"PHP has nothing for a {type(value).__name__}")

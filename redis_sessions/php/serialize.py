"""PHP's own serialization: what `serialize()` writes, and `unserialize()` reads.

For example, `["a" => [1, 2.5]]` is `a:1:{s:1:"a";a:2:{i:0;i:1;i:1;d:2.5;}}`. Each value but `R:`
takes the next number, from 1; keys take none. `R:2;` and `r:2;` refer to the value of number 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isinf, isnan
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

__all__ = ["Reader", "dumps", "loads"]

# Numbers have a longest length: to read one takes time that grows with its square.
_VALUE = re.compile(
    rb"""(?P<null>N);
    | b:(?P<bool>[01]);
    | i:(?P<int>[+-]?[0-9]{1,20});
    | d:(?P<float>-?INF|NAN|[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})
                  (?:[eE][+-]?[0-9]{1,5})?);
    | s:(?P<string>[0-9]{1,10}):"
    | a:(?P<array>[0-9]{1,10}):\{
    | O:(?P<object>[0-9]{1,10}):"
    | E:(?P<enum>[0-9]{1,10}):"
    | C:(?P<serializable>[0-9]{1,10}):"
    | r:(?P<handle>[0-9]{1,10});
    | R:(?P<reference>[0-9]{1,10});""",
    re.VERBOSE,
).match

_COUNT = re.compile(rb":([0-9]{1,10}):\{").match

_REFERS = re.compile(rb"[rR]:[0-9]+;").search

_OPEN: Final = object()
"""Stands for an array or object that hasn't ended: what refers to it would be in itself."""


def loads(raw: bytes, budget: Budget | None = None) -> Any:
    """The value that `serialize()` wrote. `PhpFormatError` if it isn't one, or above a limit."""
    reader = Reader(raw, budget or Budget())
    value = reader.value()
    if not reader.at_end:
        raise reader.wrong("more than one value")
    return value


def dumps(value: Any, depth: int = 1) -> bytes:
    """What `unserialize()` reads as this value. `PhpFormatError` if PHP can't have it.

    `depth`: 2 if the value will be in an array, and so on.
    """
    out = list[bytes]()
    _write(value, out.append, depth)
    return b"".join(out)


class Reader:
    """Reads values one after the other. They share the numbers that references refer to."""

    __slots__ = ("_budget", "_certain", "_numbered", "_raw", "at")

    def __init__(self, raw: bytes, budget: Budget) -> None:
        self._raw = raw
        self._budget = budget
        self._numbered = list[Any]()
        self._certain: int | None = None
        self.at = 0

    @property
    def at_end(self) -> bool:
        """Whether all was read."""
        return self.at >= len(self._raw)

    def value(self) -> Any:
        """The next value."""
        found = _VALUE(self._raw, self.at)
        if found is None:
            raise self.wrong("no value")
        kind = str(found.lastgroup)
        self.at = found.end()
        if kind == "reference":
            return self._referred(found[kind])
        number = len(self._numbered)
        self._numbered.append(_OPEN)
        value = self._numbered[number] = self._read(kind, found[kind])
        return value

    def _read(self, kind: str, given: bytes) -> Any:
        """The value of this kind, whose number, length, or count is given."""
        match kind:
            case "int":
                return integer(int(given))
            case "string":
                return self._string(given)
            case "array":
                return array_of(self._items(int(given)))
            case "bool":
                return given == b"1"
            case "float":
                return float(given)
            case "object":
                return self._object(given)
            case "enum":
                return self._enum(given)
            case "serializable":
                return self._serializable(given)
            case "handle":
                return self._referred(given)
            case _:
                return None

    def wrong(self, what: str) -> PhpFormatError:
        """The error for this place."""
        return PhpFormatError(f"{what} at byte {self.at}")

    def _string(self, length: bytes) -> str | bytes:
        value = self._budget.text(self._quoted(length))
        self._expect(b";")
        return value

    def _quoted(self, length: bytes) -> bytes:
        """The bytes up to a quotation mark that must be there."""
        end = self.at + int(length)
        value = self._raw[self.at : end]
        self.at = end
        self._expect(b'"')
        return value

    def _items(self, count: int) -> dict[str | bytes | int, Any]:
        self._budget.enter(count)
        items = {self._key(): self.value() for _ in range(count)}
        self._expect(b"}")
        self._budget.leave()
        return items

    def _key(self) -> str | bytes | int:
        found = _VALUE(self._raw, self.at)
        kind = found and found.lastgroup
        if found is None or kind not in {"int", "string"}:
            raise self.wrong("no key")
        self.at = found.end()
        given = found[kind]
        return integer(int(given)) if kind == "int" else key_of(self._string(given))

    def _object(self, length: bytes) -> PhpObject:
        name = self._budget.text(self._quoted(length))
        return PhpObject(name, dict_of(self._items(self._count())))

    def _serializable(self, length: bytes) -> PhpObject:
        name = self._budget.text(self._quoted(length))
        end = self._count() + self.at
        content = self._raw[self.at : end]
        self.at = end
        self._expect(b"}")
        self._budget.spend(len(content))
        # It may hold values that took numbers, and only its class knows how many. What it refers to
        # has another number when something before it is written anew.
        self._certain = self._certain or len(self._numbered)
        self._budget.linked |= _REFERS(content) is not None
        return PhpObject(name, content, "serializable")

    def _enum(self, length: bytes) -> PhpObject:
        name, colon, case = self._quoted(length).partition(b":")
        self._expect(b";")
        if not colon:
            raise self.wrong("no case of an enum")
        return PhpObject(self._budget.text(name), self._budget.text(case), "enum")

    def _count(self) -> int:
        found = _COUNT(self._raw, self.at)
        if found is None:
            raise self.wrong("no count")
        self.at = found.end()
        return int(found[1])

    def _referred(self, number: bytes) -> Any:
        index = int(number) - 1
        if self._certain is not None and index >= self._certain:
            raise self.wrong("a reference to what is behind an object that its class serialized")
        if not 0 <= index < len(self._numbered) or self._numbered[index] is _OPEN:
            raise self.wrong("a reference to nothing, or to what it is in")
        self._budget.linked = True
        return self._budget.copy(self._numbered[index])

    def _expect(self, what: bytes) -> None:
        if not self._raw.startswith(what, self.at):
            raise self.wrong(f"no {what.decode()}")
        self.at += 1


def _write(value: Any, put: Callable[[bytes], None], depth: int) -> None:
    match value:
        case None:
            put(b"N;")
        case bool():
            put(b"b:%d;" % value)
        case int():
            put(b"i:%d;" % integer(value))
        case float():
            put(b"d:%s;" % _digits(value))
        case str() | bytes():
            put(_sized(b"s", octets(value)) + b";")
        case list() | tuple() | dict():
            _write_items(b"a", value, put, depth)
        case PhpObject(name, state, "object" | "unserialize"):
            _write_items(_sized(b"O", octets(name)), state, put, depth)
        case PhpObject(name, state, "enum"):
            put(_sized(b"E", octets(name) + b":" + octets(state)) + b";")
        case PhpObject(name, state, "serializable"):
            put(_sized(b"C", octets(name)) + b":%d:{%s}" % (len(state), state))
        case _:
            raise unknown(value)


def _write_items(head: bytes, value: Any, put: Callable[[bytes], None], depth: int) -> None:
    items = items_of(value, depth)
    put(head + b":%d:{" % len(items))
    for key, each in items:
        put(b"i:%d;" % key if isinstance(key, int) else _sized(b"s", key) + b";")
        _write(each, put, depth + 1)
    put(b"}")


def _sized(kind: bytes, content: bytes) -> bytes:
    return b'%s:%d:"%s"' % (kind, len(content), content)


def _digits(number: float) -> bytes:
    if isnan(number):
        return b"NAN"
    if isinf(number):
        return b"INF" if number > 0 else b"-INF"
    return repr(float(number)).encode()

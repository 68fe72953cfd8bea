"""PHP's sessions as plain data: what PHP wrote, what it couldn't have written, and limits."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from redis_sessions.php import data as php_data
from redis_sessions.php import igbinary, msgpack, serialize
from redis_sessions.php.data import MAX_DEPTH, PhpFormatError, PhpObject
from redis_sessions.php.session_formats import SERIALIZERS, Serializer, decode, encode, replace
from tests.support.php_mutations import run
from tests.support.php_payloads import PAYLOADS, SESSION

NOT_JSON = [name for name in SERIALIZERS if "json" not in name]

EMPTY: list[Any] = [{}, []]
DATA: dict[str, Any] = {
    "user": {"id": 7, "roles": ["admin", "é"], "5": None, "-5": [], "05": {"a": {}}},
    "numbers": [0, -1, 2**63 - 1, -(2**63), 0.1, -0.0, 1e25, 5e-324, True, False],
}


@pytest.mark.parametrize("serializer", PAYLOADS)
def test_what_php_wrote(serializer: Serializer) -> None:
    """References and shared arrays are there twice; objects and enums are records."""
    assert decode(PAYLOADS[serializer], serializer) == SESSION


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_round_trip(serializer: Serializer) -> None:
    """What is encoded comes back; an empty dict is an empty array of PHP, which is a list."""
    expected = {**DATA, "user": {**DATA["user"], "05": {"a": EMPTY[serializer in NOT_JSON]}}}

    decoded = decode(encode(DATA, serializer), serializer)

    assert decoded == expected
    assert math.copysign(1, decoded["numbers"][5]) == -1
    assert [type(number) for number in decoded["numbers"]] == [*map(type, DATA["numbers"])]


@pytest.mark.parametrize("serializer", NOT_JSON)
def test_bytes_objects_and_no_numbers(serializer: Serializer) -> None:
    """Strings that aren't UTF-8, records of each kind, INF and NAN come back."""
    data: dict[str, Any] = {
        "raw": [b"\xff\0", {b"\xfe": 1}],
        "records": [
            PhpObject("Cart", {"a": 1, "\0*\0b": [2]}),
            PhpObject("Suit", "Hearts", "enum"),
            PhpObject("Old", b"i:1;\xff", "serializable"),
            PhpObject("Cart", {}),
        ],
        "inf": [math.inf, -math.inf],
    }

    assert decode(encode(data, serializer), serializer) == data
    (nan,) = decode(encode({"nan": math.nan}, serializer), serializer).values()
    assert math.isnan(nan)


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_no_bytes_are_an_empty_session(serializer: Serializer) -> None:
    """PHP stores an empty session as nothing, and what is encoded of one is empty, too."""
    assert decode(b"", serializer) == {}
    assert decode(encode({}, serializer), serializer) == {}


OLD = PhpObject("A", b"i:1;", "serializable")
STD = PhpObject("stdClass", {"x": 1})


@pytest.mark.parametrize(
    ("payload", "serializer", "session"),
    [
        # A reference to an array has no number of its own, but one to an object has.
        (
            b"\x95\x82\xc0\1\xa1k\1\x82\xc0\2\0\2\x82\xc0\xa8stdClass\xa1x\1\x82\xc0\4\0\3\x82\xc0\4\0\3",
            "msgpack",
            dict(zip("01234", [{"k": 1}, {"k": 1}, STD, STD, STD], strict=True)),
        ),
        # An object that a reference leads to begins with the mark of a reference.
        (
            b"\x82\xa1a\x83\xc0\1\xc0\xa8stdClass\xa1x\1\xa1b\x82\xc0\5\0\2",
            "msgpack",
            {"a": STD, "b": STD},
        ),
        # A typed property that PHP hasn't set yet is null where its name would be.
        (
            b"\0\0\0\2\x14\1\x11\1o\x17\1A\x14\3\0\x11\1b\0\0",
            "igbinary",
            {"o": PhpObject("A", {"b": None})},
        ),
        # What a class has serialized may have taken numbers. Its own, and those before, are known.
        (b'x|i:5;a|C:1:"A":4:{i:1;}b|R:1;c|r:2;', "php", {"x": 5, "a": OLD, "b": 5, "c": OLD}),
    ],
)
def test_what_else_php_writes(payload: bytes, serializer: Serializer, session: Any) -> None:
    """Marks of references, and numbers and names that were left out."""
    assert decode(payload, serializer) == session


def test_a_property_of_msgpack_whose_name_is_a_number() -> None:
    """PHP writes it as a string, and takes an int for another property."""
    payload = bytes.fromhex("82c0a8737464436c617373a13501")

    assert msgpack.loads(payload) == PhpObject("stdClass", {"5": 1})
    assert msgpack.dumps(msgpack.loads(payload)) == payload


def test_a_name_without_a_value() -> None:
    """php_binary marks a variable that isn't set: old versions of PHP wrote such names."""
    assert decode(b"\x81a\x01bi:1;", "php_binary") == {"b": 1}


def test_keys_that_are_numbers() -> None:
    """PHP's numbers have 64 bits and one spelling; all else is text."""
    names = ["0", "-1", "01", "-0", "1.0", "", str(2**63 - 1), str(2**63), str(-(2**63)), "+1"]
    numbers = {"0", "-1", str(2**63 - 1), str(-(2**63))}

    written = serialize.dumps(dict.fromkeys(names))

    assert [b"i:%s;" % name.encode() in written for name in names] == [
        name in numbers for name in names
    ]


def test_a_property_by_its_name() -> None:
    """`get` finds public, protected and private properties, and nothing in other records."""
    money = PhpObject("Money", {"amount": 5, "\0*\0currency": "EUR", "\0Money\0note": "x"})

    assert [money.get(name) for name in ("amount", "currency", "note")] == [5, "EUR", "x"]
    assert money.get("else", 1) == 1
    assert PhpObject("Suit", "Hearts", "enum").get("Hearts") is None


@pytest.mark.parametrize(
    ("payload", "serializer"),
    [
        (b"a", "php"),
        (b"a|", "php"),
        (b"a|i:1", "php"),
        (b"a|i:9223372036854775808;", "php"),
        (b"a|i:" + b"9" * 5000 + b";", "php"),
        (b"a|d:" + b"9" * 5000 + b";", "php"),
        (b"a|d:1e;", "php"),
        (b'a|s:2:"a";', "php"),
        (b'a|s:1:"a"i', "php"),
        (b'a|s:4294967295:"a";', "php"),
        (b"a|a:1:{}", "php"),
        (b"a|a:0:{i:0;i:1;}", "php"),
        (b"a|a:1:{N;i:1;}", "php"),
        (b"a|a:1:{i:0;i:1;", "php"),
        (b"a|a:1:{i:0;R:1;}", "php"),
        (b"a|R:1;", "php"),
        (b"a|R:0;", "php"),
        (b"a|i:1;b|R:3;", "php"),
        (b'a|O:1:"A":1:{s:1:"a";r:1;}', "php"),
        (b'a|O:1:"A":{}', "php"),
        (b'a|E:4:"Suit";', "php"),
        (b'a|C:1:"A":4:{i:1;}b|R:2;', "php"),
        (b'a|C:1:"A":5:{i:1;}', "php"),
        (b"\x05ai:1;", "php_binary"),
        (b"\x01", "php_binary"),
        (b"a:0:{}a:0:{}", "php_serialize"),
        (b"i:1;", "php_serialize"),
        (b"i:1;", "laravel"),
        (b's:4:"i:1;";', "laravel"),
        (b's:2:"{]";', "laravel_json"),
        (b"1", "json"),
        (b"{", "json"),
        (b"\xff", "json"),
        (b"[NaN]", "json"),
        (b"[" + b"9" * 5000 + b"]", "json"),
        (b"[0." + b"9" * 5000 + b"]", "json"),
        (b'["\\ud800"]', "json"),
        (b"[" * 5000, "json"),
        (b"\0\0\0\3\x14\0", "igbinary"),
        (b"\0\0\0\2", "igbinary"),
        (b"\0\0\0\2\x14\1\6\0\1\0", "igbinary"),
        (b"\0\0\0\2\x14\1\6\0\1\7", "igbinary"),
        (b"\0\0\0\2\x14\1\6\0\x0e\0", "igbinary"),
        (b"\0\0\0\2\x14\1\5\6\0", "igbinary"),
        (b"\0\0\0\2\x14\1\6\0\x20" + b"\xff" * 8, "igbinary"),
        (b"\0\0\0\2\x14\1\6\0" + b"\x25" * 5000, "igbinary"),
        (b"\0\0\0\2\x14\1\6\0\x17\1A\6\0", "igbinary"),
        (b"\0\0\0\2\x14\0\0", "igbinary"),
        (b"\0\0\0\2\x16\xff\xff\xff\xff", "igbinary"),
        (b"\0\0\0\2\x14\1\6\0\x28", "igbinary"),
        (b"\x90\x90", "msgpack"),
        (b"\xc1", "msgpack"),
        (b"\1", "msgpack"),
        (b"\x81\x90\1", "msgpack"),
        (b"\x81\xc2\1", "msgpack"),
        (b"\x81\xa1a\xcf" + b"\xff" * 8, "msgpack"),
        (b"\x91\x82\xc0\4\0\1", "msgpack"),
        (b"\x91\x82\xc0\4\0\7", "msgpack"),
        (b"\x91\x82\xc0\7\0\1", "msgpack"),
        (b"\x91\x82\xc0\6\1\2", "msgpack"),
        (b"\x91\x82\xc0\7\xa1a\xa1b", "msgpack"),
        (b"\x91\x81\xc0\4", "msgpack"),
        (b"\x91\x83\xc0\xa1A\xc0\x90\xa1b\1", "msgpack"),
        (b"\x91\x83\xc0\1\xc0\1\xa1a\1", "msgpack"),
        (b"\xdd\xff\xff\xff\xff", "msgpack"),
    ],
)
def test_what_php_never_wrote(payload: bytes, serializer: Serializer) -> None:
    """Malformed bytes, cycles and numbers beyond 64 bits are refused, with one error."""
    with pytest.raises(PhpFormatError):
        decode(payload, serializer)


BOMBS: list[tuple[bytes, Serializer]] = [
    # Each array holds the one before ten times.
    (
        b"a0|a:0:{}"
        + b"".join(
            b"a|a:10:{%s}" % b"".join(b"i:%d;R:%d;" % (i, n) for i in range(10))
            for n in range(1, 40)
        ),
        "php",
    ),
    (
        b"\0\0\0\2\x14\x28\6\0\x14\1\6\0\6\0"
        + b"".join(
            b"\6%c\x14\x0a" % n + b"".join(b"\6%c\1%c" % (i, n) for i in range(10))
            for n in range(1, 40)
        ),
        "igbinary",
    ),
    # Each place has the same text.
    (b'a|s:20000:"%s";' % (b"x" * 20_000) + b"b|R:1;" * 100, "php"),
    (
        b"\0\0\0\2\x15\x40\0\6\0\x12\x4e\x20" + b"x" * 20_000 + b"\6\1\x0e\0" * 0x3FFF,
        "igbinary",
    ),
]


@pytest.mark.parametrize(("payload", "serializer"), BOMBS)
def test_reference_bombs(payload: bytes, serializer: Serializer) -> None:
    """What is referred to counts each time, so that small payloads can't become large data."""
    with pytest.raises(PhpFormatError, match=r"more than|longer than"):
        decode(payload, serializer)


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_limits(serializer: Serializer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth, elements and bytes have a limit, and what is just below it is read."""
    monkeypatch.setattr(php_data, "MAX_ELEMENTS", 100)
    deep: Any = "end"
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    many, more = (encode({"a": [0] * count}, serializer) for count in (99, 100))
    text = encode({"a": "x" * 1000}, serializer)

    assert decode(encode({"a": deep}, serializer), serializer) == {"a": deep}
    with pytest.raises(PhpFormatError, match="nested deeper"):
        encode({"a": [deep]}, serializer)
    assert len(decode(many, serializer)["a"]) == 99
    with pytest.raises(PhpFormatError, match="elements"):
        decode(more, serializer)
    assert decode(text, serializer, max_size=len(text)) == {"a": "x" * 1000}
    with pytest.raises(PhpFormatError, match="max_size"):
        decode(text, serializer, max_size=len(text) - 1)


def test_many_elements_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted before they are built; commas in texts don't count."""
    monkeypatch.setattr(php_data, "MAX_ELEMENTS", 100)
    session = {"b\\": [1, 2], "a": ",\\" + ',",' * 100}

    assert decode(encode(session, "json"), "json") == session
    with pytest.raises(PhpFormatError, match="elements"):
        decode(b"[" + b"1," * 101, "json")


def test_too_deep_to_read() -> None:
    """Depth is limited where it is read, too."""
    levels = MAX_DEPTH + 1
    for payload, loads in (
        (b"a:1:{i:0;" * levels + b"N;" + b"}" * levels, serialize.loads),
        (b"\0\0\0\2" + b"\x14\1\6\0" * levels + b"\0", igbinary.loads),
        (b"\x91" * levels + b"\xc0", msgpack.loads),
    ):
        with pytest.raises(PhpFormatError, match="nested deeper"):
            loads(payload)


def test_a_deep_stack() -> None:
    """Where the interpreter has too few frames left, that is the same error."""
    payload = encode({"a": [[[[[[[[[[]]]]]]]]]]}, "php")

    def decode_below(frames: int) -> Any:
        return decode_below(frames - 1) if frames else decode(payload, "php")

    with pytest.raises(PhpFormatError, match="nested too deeply"):
        for frames in range(10, sys.getrecursionlimit(), 10):
            decode_below(frames)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**63, "64 bits"),
        (object(), "nothing for a object"),
        ({1: 1, "1": 2}, "two keys"),
        ({None: 1}, "no key of type"),
        ({True: 1}, "no key of type"),
        ("\ud800", "surrogate"),
        ({"a": [{2**63: 1}]}, "64 bits"),
    ],
)
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_what_php_cant_have(value: Any, message: str, serializer: Serializer) -> None:
    """Such a value is refused, before anything is written."""
    with pytest.raises(PhpFormatError, match=message):
        encode({"a": value}, serializer)


@pytest.mark.parametrize(
    ("data", "serializer"),
    [
        ({"a|b": 1}, "php"),
        ({"5": 1}, "php"),
        ({"5": 1}, "php_binary"),
        ({"5": 1}, "igbinary"),
        ({"5": 1}, "msgpack"),
        ({"k" * 128: 1}, "php_binary"),
        ({"a": b"\xff"}, "json"),
        ({b"\xff": 1}, "json"),
        ({"a": math.nan}, "json"),
        ({"a": PhpObject("A", {})}, "json"),
    ],
)
def test_what_a_serializer_cant_store(data: dict[Any, Any], serializer: Serializer) -> None:
    """PHP would skip such a key, or fail: here it is an error."""
    with pytest.raises(PhpFormatError):
        encode(data, serializer)


@pytest.mark.parametrize("serializer", NOT_JSON)
def test_some_keys_are_replaced(serializer: Serializer) -> None:
    """The others stay as they were, with objects; but not if two places share a value."""
    alone = {key: SESSION[key] for key in ("x", "o", "s")}

    changed = replace(encode(alone, serializer), serializer, {"x": [1], "new": 2}, ["s", "none"])

    assert decode(changed, serializer) == {"x": [1], "o": SESSION["o"], "new": 2}
    with pytest.raises(PhpFormatError, match="references"):
        replace(PAYLOADS[serializer], serializer, {})


def test_what_a_class_has_written_may_refer_to_what_came_before() -> None:
    """`r:3;` would lead to another value when the cart has more elements than before."""
    payload = b'cart|a:1:{s:1:"a";i:1;}o|O:1:"A":0:{}l|C:1:"L":4:{%s}'

    assert replace(payload % b"r-3;", "php", {"cart": [1, 2]}).endswith(b'"L":4:{r-3;}')
    with pytest.raises(PhpFormatError, match="references"):
        replace(payload % b"r:3;", "php", {"cart": [1, 2]})


def test_an_array_that_two_places_have() -> None:
    """igbinary writes it once though PHP has no reference there: it can be written back."""
    payload = b"\0\0\0\2\x14\2\x11\1c\x14\1\6\0\6\1\x11\1d\1\1"

    assert decode(replace(payload, "igbinary", {}), "igbinary") == {"c": [1], "d": [1]}


def test_altered_sessions() -> None:
    """Whatever is altered in a payload, it is plain data or one error."""
    found = run(3000, seed=2)

    assert found["read"] > 0
    assert found["refused"] > 0

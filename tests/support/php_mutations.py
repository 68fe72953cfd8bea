"""Sessions of PHP that were altered at random, and what must hold of each."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final

from redis_sessions.php import session_formats
from redis_sessions.php.compression import Compression, compressor, decompressor
from redis_sessions.php.data import PhpFormatError, PhpObject
from redis_sessions.php.session_formats import SERIALIZERS, Serializer
from tests.support.php_payloads import PAYLOADS

MAX_SIZE: Final = 4096

_PLAIN: Final = {type(None), bool, int, float, str, bytes}

_TYPED: Final[dict[str, Any]] = {
    "user": {"id": 7, "roles": ["admin", "é"], "score": 2.5, "gone": None, "ok": True},
    "cart": [{"sku": "A-1", "count": 3}, {"sku": "B-2", "count": -70_000}],
    "raw": "\0\x7f",
}

# Pieces of the formats, and numbers at the limits of what a length may be.
_PIECES: Final = [
    *(b'a:3:{ O:8:"stdClass":1:{ C:1:"x":5:{ R:1; r:2; R:99999; i:9223372036854775808;'.split()),
    *(b'd:1e999; d:NAN; s:4294967295:" } {} | [] [[[[ {"a": 1e999 N; b:1;'.split()),
    *(b"\x14\xff \x16\xff\xff\xff\xff \x01\x00 \x22\x00 \x25 \x0e\x00 \x17\x01x \x27".split()),
    *(b"\xdf\xff\xff\xff\xff \xdd\xff\xff\xff\xff \x82\xc0\x04\x00\x01 \x81\xc0 \xc7\x00".split()),
]


def run(count: int, seed: int) -> Counter[str]:
    """So many altered payloads, with and without compression: how many were read, and refused.

    Whatever else is raised, or found in what was read, is raised here.
    """
    random, found = Random(seed), Counter[str]()  # noqa: S311  # nothing secret
    payloads = _payloads()
    decompress = {kind: decompressor(kind) for kind in _COMPRESSIONS}
    for _ in range(count):
        serializer, compression, payload = random.choice(payloads)
        altered = _altered(payload, random)
        try:
            if compression:
                altered = decompress[compression](altered, MAX_SIZE)
            check(session_formats.decode(altered, serializer, max_size=MAX_SIZE))
        except PhpFormatError:
            found["refused"] += 1
        except Exception as exc:
            exc.add_note(f"{serializer}, {compression}, {payload!r} altered: {altered!r}")
            raise
        else:
            found["read"] += 1
    return found


def check(value: Any) -> None:
    """Only plain data and records are in it, and it is a tree that can be stored."""
    if isinstance(value, PhpObject):
        assert type(value) is PhpObject
        assert type(value.class_name) in {str, bytes}
        check(value.state)
        return
    kind: Any = value.__class__
    if kind is dict:
        assert {*map(type, value)} <= {str, bytes}
        value = [*value.values()]
    elif kind is not list:
        assert kind in _PLAIN, kind
        return
    for each in value:
        check(each)


_COMPRESSIONS: Final[tuple[Compression, ...]] = ("lzf", "zstd", "lz4")


def _payloads() -> list[tuple[Serializer, Compression | None, bytes]]:
    plain: list[tuple[Serializer, bytes]]
    plain = [(name, session_formats.encode(_TYPED, name)) for name in SERIALIZERS]
    plain += PAYLOADS.items()
    compressed: list[tuple[Serializer, Compression | None, bytes]]
    compressed = [
        (name, kind, compressor(kind)(payload)) for name, payload in plain for kind in _COMPRESSIONS
    ]
    # Most are altered as they are: an altered frame is seldom read.
    return [*((name, None, payload) for name, payload in plain for _ in range(6)), *compressed]


def _altered(payload: bytes, random: Random) -> bytes:
    changed = bytearray(payload)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0:
                changed[at : at + 1] = random.randbytes(1)
            case 1:
                del changed[at : at + random.randrange(8)]
            case 2:
                changed[at:at] = random.choice(_PIECES)
            case 3:
                changed[at : at + 1] = b"%d" % random.choice((0, 1, 2, 9, 65536, 2**31, 2**64))
            case 4:
                start = random.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + random.randrange(32)]
            case _:
                changed = changed[: random.randrange(len(changed) + 1)] or changed
    return bytes(changed)

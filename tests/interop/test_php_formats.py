"""PHP's own extensions read what is written here, and what they write is read here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_sessions.php.compression import Compression, compressor, decompressor
from redis_sessions.php.data import PhpObject
from redis_sessions.php.session_formats import SERIALIZERS, Serializer, decode, encode
from tests.properties.strategies import examples
from tests.support.php import Php, described

SESSIONS: Final = {
    "nested": """$_SESSION = ['user' => ['id' => 7, 'roles' => ['a', 'b'],
        'gaps' => [1 => 'x', 0 => 'y', -5 => 'z']], 'empty' => [],
        'none' => null, 'yes' => true];""",
    "unicode": """$_SESSION = ['naïve' => 'żółć 🦊', '日本' => ['語' => "\\u{10FFFF}\\0"]];""",
    "binary": """$_SESSION = ['b' => "\\xff\\x00\\xfe", 'k' => ["\\xff" => "\\xc3"]];""",
    "floats": """$_SESSION = ['f' => [0.1, -0.0, 1e25, 1e16, 1.5e-320, 1.7976931348623157e308, 1.0,
        1 / 3, 123456789012345678.0]];""",
    "no numbers": """$_SESSION = ['f' => [INF, -INF, NAN]];""",
    "ints": """$_SESSION = ['i' => [PHP_INT_MAX, PHP_INT_MIN, 0, -1, 31, 32, -32, -33, 127, 128,
        -128, -129, 255, 256, 65535, 65536, -32768, -32769, 4294967295, 4294967296,
        -4294967296]];""",
    "keys": """$_SESSION = ['a' => ['01' => 1, '1' => 2, '-0' => 3, '9223372036854775807' => 4,
        '9223372036854775808' => 5, '-9223372036854775808' => 6, '' => 7,
        '1.0' => 8, '-1' => 9]];""",
    "references": """$x = 'text'; $a = ['k' => [1]]; $n = null; $_SESSION = ['x' => &$x,
        'y' => [&$x, &$x], 'a' => &$a, 'b' => &$a, 'c' => $a, 'd' => $a, 'n' => [&$n, &$n],
        'e' => [&$a, $a, 1.5]];""",
    "objects": """$o = new Money; $_SESSION = ['m' => $o, 'n' => $o, 'a' => [1], 'o' => &$o,
        'std' => (object) ['a' => [1], 'b' => new Money, 'c' => (object) []], 'p' => $o];""",
    "objects that are referred to": """$o = new Money; $s = (object) [];
        $_SESSION = ['o' => &$o, 'p' => [&$o, &$s], 'q' => $o, 's' => &$s, 't' => $s];""",
    "properties without a value": """$_SESSION = ['b' => [new Blank, new Blank], 'c' => [1]];""",
    "enums": """$_SESSION = ['s' => [Suit::Hearts, Suit::Spades, Suit::Hearts]];""",
    "deep": """$d = 'end'; for ($i = 0; $i < 62; $i++) { $d = ['x' => $d]; }
        $_SESSION = ['deep' => $d];""",
    "large": """for ($i = 0; $i < 3000; $i++) {
        $_SESSION['k' . $i] = ['id' => $i, 'name' => str_repeat('x', $i % 300)]; }""",
    "nothing": "$_SESSION = [];",
}

NOT_JSON: Final = {
    *("binary", "no numbers", "objects", "enums"),
    *("objects that are referred to", "properties without a value"),
}
"""What JSON of PHP doesn't have, or loses."""

NOT_READ: Final = {"enums"}
"""What PHP's msgpack 3.0 writes and can't read: it frees the case, and PHP ends."""


@pytest.fixture(scope="module")
def sessions(php: Path) -> Iterator[Php]:
    with Php(php) as process:
        yield process


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_what_php_writes_and_reads(sessions: Php, serializer: Serializer) -> None:
    """Each session of PHP is read as PHP says it is, and PHP reads the same of what is written."""
    for name in SESSIONS.keys() - (NOT_JSON if "json" in serializer else set()):
        payload, said = sessions.wrote(serializer, SESSIONS[name])

        data = decode(payload, serializer)

        assert described(data) == said, name
        if serializer == "msgpack" and name in NOT_READ:
            continue
        again, said_of_ours = sessions.read(serializer, encode(data, serializer))
        assert said_of_ours == said, name
        assert described(decode(again, serializer)) == said, name


NATIVE: Final = """$_SESSION = ['list' => new ArrayObject([1, 'k' => [2]]),
    'old' => new Old("a\\xff"),
    'date' => new DateTimeImmutable('2026-01-02 03:04:05 UTC'), 'more' => [new Old, 1.5]];"""


@pytest.mark.parametrize("serializer", [name for name in SERIALIZERS if "json" not in name])
def test_objects_that_their_class_serializes(sessions: Php, serializer: Serializer) -> None:
    """Of what is written PHP makes the same objects as of its own payload."""
    payload, _ = sessions.wrote(serializer, NATIVE)
    _, said = sessions.read(serializer, payload)

    data = decode(payload, serializer)
    _, said_of_ours = sessions.read(serializer, encode(data, serializer))

    assert data["old"] == PhpObject("Old", b"text=a\xff", "serializable")
    assert said_of_ours == said


texts: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names: Final = texts.filter(lambda name: "|" not in name and not name.lstrip("-").isdecimal())
numbers: Final = st.integers(-(2**63), 2**63 - 1)
no_texts: Final = st.binary(max_size=5).map(lambda raw: raw + b"\xff")
plain: Final = st.none() | st.booleans() | numbers | texts
values: Final = st.recursive(
    plain | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
binary_values: Final = st.recursive(
    plain | st.floats(allow_nan=False) | st.binary(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts | no_texts, inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_whatever_is_made_up(sessions: Php, serializer: Serializer) -> None:
    """PHP reads what was written, and what PHP writes of it again is the same data."""

    @examples
    @given(data=st.dictionaries(names, values if "json" in serializer else binary_values))
    def check(data: dict[str, Any]) -> None:
        again, said = sessions.read(serializer, encode(data, serializer))

        assert said == described(data)
        assert described(decode(again, serializer)) == said

    check()


@pytest.mark.parametrize("kind", get_args(Compression))
def test_compression_of_phpredis(php: Path, kind: Compression) -> None:
    """phpredis decompresses what is compressed here, and the other way round."""
    payload = b"cart|" + b"".join(b"i:%d;" % number for number in range(3000)) + bytes(range(256))
    ours = compressor(kind)(payload)
    code = """$redis = new Redis();
        $redis->setOption(Redis::OPT_COMPRESSION, constant('Redis::COMPRESSION_' . $argv[1]));
        $payload = $redis->_uncompress(hex2bin($argv[2]));
        echo bin2hex($payload), ' ', bin2hex($redis->_compress($payload));"""

    said = subprocess.check_output([php, "-r", code, "--", kind.upper(), ours.hex()], text=True)

    read, theirs = map(bytes.fromhex, said.split(" "))
    assert read == payload
    assert len(theirs) < len(payload)
    assert decompressor(kind)(theirs, len(payload)) == payload

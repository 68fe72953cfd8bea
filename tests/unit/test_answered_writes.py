"""What a process keeps of what it answered: of two things about one id, only one counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from redis_sessions.session.record import tombstone
from redis_sessions.stores.commands import ABSENT, EARLIER, END, Write
from redis_sessions.stores.dialects import ONE_SERVER
from redis_sessions.stores.protocols import CONFLICT, GONE, STORED
from redis_sessions.stores.repeats import LARGE, LIMIT, Repeat, Repeats


def header(rotated: int) -> bytes:
    return b"\1key." + rotated.to_bytes(4, "big") + bytes(24)


def rotation(before: int, after: int, data: bytes = b"data", key: str = "k") -> Write:
    return Write(key, header(before), header(after) + data, 60_000)


def end(key: str = "k") -> Write:
    return Write(key, END, tombstone(1), 30_000)


def noted(*writes: Write, answer: Any = STORED) -> Repeats:
    repeats = Repeats(ONE_SERVER, lambda _: None)
    for write in writes:
        repeats.note([write], [answer])
    return repeats


def kept(repeats: Repeats) -> Sequence[Write]:
    """All that would be said to another server."""
    return [repeat.write for repeat in repeats.pop(lambda _: True)]


@pytest.mark.parametrize(
    ("writes", "expected", "value"),
    [
        ([end(), rotation(0, 9)], END, None),
        ([rotation(0, 9), end()], END, None),
        ([rotation(5, 9, b"later"), rotation(0, 5)], EARLIER, b"later"),
        ([rotation(0, 5), rotation(5, 9, b"later")], EARLIER, b"later"),
        ([rotation(0, 5), rotation(5, 5, b"changed")], EARLIER, b"changed"),
        ([rotation(0, 5), rotation(9, 9, b"another's")], EARLIER, b"another's"),
        ([rotation(0, 5), rotation(0, 0, b"old token")], EARLIER, b"data"),
    ],
)
def test_what_counts(writes: list[Write], expected: bytes, value: bytes | None) -> None:
    """An end, else the later rotation, in whatever order the answers come; with its last change."""
    (write,) = kept(noted(*writes))
    assert write.expected == expected
    assert value is None or write.value[33:] == value


@pytest.mark.parametrize(
    ("write", "answer"),
    [
        (rotation(0, 0), STORED),
        (rotation(0, 9), CONFLICT),
        (rotation(0, 9), GONE),
        (rotation(0, 9), RuntimeError()),
        (replace(rotation(0, 9), expected=ABSENT), STORED),
        (Write("k", ABSENT, tombstone(1), 1000), STORED),
    ],
)
def test_what_is_not_kept(write: Write, answer: Any) -> None:
    """A plain change, a beginning, and whatever wasn't done."""
    assert not kept(noted(write, answer=answer))


def test_what_another_node_had_acknowledged() -> None:
    """It is due here, unless this node has acknowledged as much, or more, of the same id."""
    repeats = noted(rotation(0, 5, b"merged"))
    repeats.add(Repeat(replace(rotation(0, 5), expected=EARLIER)))
    assert not repeats.due
    repeats.add(Repeat(replace(rotation(0, 6), expected=EARLIER)))
    assert list(repeats.due) == ["k"]
    repeats.note([rotation(6, 6, b"changed")], [STORED])
    assert not repeats.due, "it took a change of that rotation, so it has it"
    repeats.add(Repeat(end()))
    assert list(repeats.due) == ["k"]


def test_a_change_that_is_too_large() -> None:
    """Its record isn't kept any more; that of a later, smaller change is."""
    large, small = rotation(9, 9, bytes(LARGE)), rotation(9, 9, b"small")
    (write,) = kept(noted(rotation(0, 9), large))
    assert write.value[5:9] == header(9)[5:9]
    assert len(write.value) == 33
    (write,) = kept(noted(rotation(0, 9), large, small))
    assert write.value[33:] == b"small"


def test_the_oldest_goes() -> None:
    """Of ends and rotations together."""
    writes = [end(str(n)) if n % 2 else rotation(0, 1, b"data", str(n)) for n in range(LIMIT + 3)]
    assert [write.key for write in kept(noted(*writes))] == [w.key for w in writes[3:]]

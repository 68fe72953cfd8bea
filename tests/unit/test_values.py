"""Session data as MessagePack: what changes its type, limits, hooks."""

from __future__ import annotations

import datetime as dt
import enum
from collections import OrderedDict, defaultdict
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pytest

from redis_sessions import SessionEncodeError
from redis_sessions.session import values
from redis_sessions.session.values import MAX_CONTAINERS, MAX_DEPTH, Values, pack
from tests.unit.application_types import Color, Point

UTC = dt.UTC
CODEC = Values(max_size=64 * 1024)


class Level(enum.IntEnum):
    HIGH = 3


# -- what changes its type on the way


CONVERSIONS: list[tuple[Any, Any]] = [
    ((1, (2, 3)), [1, [2, 3]]),
    ({1}, [1]),
    (frozenset({1}), [1]),
    (bytearray(b"a"), b"a"),
    (memoryview(b"a"), b"a"),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(int, a=1), {"a": 1}),
    (dt.datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006"),  # noqa: DTZ001
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.time(1, 2, 3), "01:02:03"),
    (dt.timedelta(days=1, seconds=2), "P1DT2S"),
    (Decimal("1.50"), "1.50"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Color.RED, "red"),
    (Level.HIGH, 3),
    (Point(1), {"x": 1, "y": 0}),
    (
        dt.datetime(2026, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        dt.datetime(2026, 1, 1, tzinfo=UTC),
    ),
]


@pytest.mark.parametrize(
    ("value", "loaded"),
    CONVERSIONS,
    ids=[type(value).__name__ + str(n) for n, (value, _) in enumerate(CONVERSIONS)],
)
def test_documented_conversions(value: object, loaded: object) -> None:
    """What isn't MessagePack's own comes back as its encoded form."""
    found: Any = values.decode(CODEC.encode({"a": value}))["a"]

    assert found == loaded
    assert type(found) is type(loaded)
    assert getattr(found, "tzinfo", UTC) is UTC


@pytest.mark.parametrize("key", ["a", "", 1, -1, None, True, 1.5, b"a", (1, "a")], ids=repr)
def test_keys_of_other_types(key: object) -> None:
    """Keys that MessagePack holds come back as they were."""
    assert values.decode(CODEC.encode({key: 1, "n": {key: 2}})) == {key: 1, "n": {key: 2}}


# -- limits


def nested(levels: int, leaf: type[list[Any] | dict[Any, Any]]) -> Any:
    value: Any = leaf()
    for _ in range(levels - 1):
        value = [value] if leaf is list else {"a": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
def test_depth_is_bounded(kind: type[list[Any]]) -> None:
    """100 levels with the session's own pass, and load; 101 don't."""
    fits, over = ({"a": nested(MAX_DEPTH - 1 + more, kind)} for more in (0, 1))

    CODEC.check(CODEC.encode(fits))
    assert values.decode(CODEC.encode(fits)) == fits
    with pytest.raises(SessionEncodeError, match="deeper than 100 levels"):
        CODEC.check(CODEC.encode(over))


def test_depth_is_bounded_where_a_hook_adds_to_it() -> None:
    """Each part fits the recursion limit, and both together don't."""
    codec = Values(max_size=64 * 1024, enc_hook=lambda _: nested(600, list))
    value: Any = 1j
    for _ in range(600):
        value = [value]
    with pytest.raises(SessionEncodeError, match="nested deeper than 100 levels"):
        codec.check(codec.encode({"a": value}))


def test_keys_are_searched() -> None:
    """A key that is a tuple has levels, too."""
    fits: tuple[Any, ...] = ()
    over: tuple[Any, ...] = ()
    for level in range(MAX_DEPTH - 1):
        fits, over = (fits,) if level > 1 else fits, (over,)
    CODEC.check(CODEC.encode({"a": {fits: 1}}))
    with pytest.raises(SessionEncodeError, match=r"session\['a'\] is nested deeper"):
        CODEC.check(CODEC.encode({"a": {over: 1}}))


def test_what_was_stored_is_not_searched_again() -> None:
    """Only what changed can have become too deep, however much there is besides."""
    codec = Values(max_size=1 << 20)
    wide: dict[str, Any] = {"wide": [[] for _ in range(200)], "was": nested(MAX_DEPTH, list)}
    before = codec.encode(wide)
    codec.check(codec.encode({**wide, "fits": nested(MAX_DEPTH - 1, list)}), before)
    with pytest.raises(SessionEncodeError, match=r"session\['new'\] is nested deeper"):
        codec.check(codec.encode({**wide, "new": nested(MAX_DEPTH, list)}), before)
    with pytest.raises(SessionEncodeError, match=r"session\['was'\] is nested deeper"):
        codec.check(before)


def test_wide_data_are_not_deep() -> None:
    """Many containers, and texts whose bytes look like some, pass."""
    CODEC.check(CODEC.encode({"a": [[] for _ in range(500)], "b": "é" * 500, "c": b"\x91" * 500}))


def test_the_largest_keys_are_named() -> None:
    """Three of them, the largest first, with their sizes in bytes."""
    small = Values(max_size=100)

    with pytest.raises(SessionEncodeError) as caught:
        small.check(small.encode({"a": "x" * 10, "b": b"x" * 90, "c": "x" * 30, "d": "x" * 20}))

    assert str(caught.value).endswith("in bytes: 'b' 92, 'c' 31, 'd' 21")
    assert "is 164 bytes, over max_size=100" in str(caught.value)


def test_the_number_of_containers_is_bounded() -> None:
    """4,096 dicts and lists, wherever they are; the error says where most of them are."""
    fits: dict[str, Any] = {
        "a": [{"b": []}] * 2000,
        "c": [()] * 92,
        "d": {},
    }  # a: 4001, c: 93, d: 1

    CODEC.check(CODEC.encode({**fits, "n": 1}))
    with pytest.raises(SessionEncodeError) as caught:
        CODEC.check(CODEC.encode({**fits, "e": [[]]}))
    assert str(caught.value) == (
        "the session has 4097 dicts and lists, over the limit of 4096; "
        "its largest keys, in dicts and lists: 'a' 4001, 'c' 93, 'e' 2"
    )
    assert MAX_CONTAINERS == 4096


def test_texts_and_bytes_are_no_containers() -> None:
    """However much their bytes look like some."""
    CODEC.check(CODEC.encode({"a": "は" * 15_000, "b": b"\x90" * 5_000, "c": [[]] * 4_000}))


def test_more_containers_that_are_stored_are_read() -> None:
    """The bound is for what is written."""
    many = pack({"a": [[]] * 5_000})
    assert len(values.decode(many)["a"]) == 5_000


def test_what_is_stored_above_a_limit_may_shrink() -> None:
    """A limit that came later refuses growth, and nothing else."""
    before = pack({"a": [[]] * 5_000, "user_id": "u"})
    CODEC.check(before, before)
    CODEC.check(pack({"a": [[]] * 5_000, "b": 1}), before)
    CODEC.check(pack({"a": [[]] * 4_999, "b": []}), before)
    with pytest.raises(SessionEncodeError, match="5002 dicts and lists, over the limit of 4096"):
        CODEC.check(pack({"a": [[]] * 5_001}), before)

    small, large = Values(max_size=100), pack({"a": "x" * 200, "user_id": "u"})
    small.check(large, large)
    small.check(pack({"a": "x" * 200}), large)
    with pytest.raises(SessionEncodeError, match="over max_size=100"):
        small.check(pack({"a": "x" * 200, "user_id": "ux"}), large)


def test_what_is_torn_by_another_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the marks aren't as many as the values, nothing is stored."""
    monkeypatch.setattr("redis_sessions.session.values.urandom", b"x".__mul__)
    codec = Values(max_size=1000, enc_hook=repr)

    with pytest.raises(SessionEncodeError, match="another thread"):
        codec.encode({"a": 1j, "looks like a mark": b"x" * 16})
    with pytest.raises(SessionEncodeError, match="another thread"):
        codec.check(b"\xdc\xff\xff" + b"\x90" * 101)


# -- hooks


def test_hooks_add_a_type() -> None:
    """`enc_hook` on writing, `dec_hook` in `get_as`; an untyped read gives the encoded form."""

    def enc_hook(value: object) -> object:
        if isinstance(value, complex):
            return [value.real, value.imag]
        raise NotImplementedError

    def dec_hook(kind: type, value: Any) -> object:
        assert kind is complex
        return complex(*value)

    codec = Values(max_size=1000, enc_hook=enc_hook, dec_hook=dec_hook)

    loaded = values.decode(codec.encode({"a": 1 + 2j}))["a"]

    assert loaded == [1.0, 2.0]
    assert codec.convert("a", loaded, complex) == 1 + 2j
    assert codec.encode_value("a", 1 + 2j) == msgspec.msgpack.encode([1.0, 2.0])
    with pytest.raises(SessionEncodeError, match=r"session\['a'\].* of type object"):
        codec.encode({"a": object()})


def test_a_failing_hook_is_named() -> None:
    """The path leads to the value whose hook failed, and the hook's error is chained."""

    def enc_hook(value: object) -> object:
        raise ZeroDivisionError("in the hook")

    with pytest.raises(SessionEncodeError, match=r"session\['a'\]\[1\].*in the hook") as caught:
        Values(max_size=1000, enc_hook=enc_hook).encode({"a": [1, 1j]})

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_path_goes_through_typed_values() -> None:
    """Fields of Structs and dataclasses are steps, too."""

    class Box(msgspec.Struct):
        inner: Any

    with pytest.raises(SessionEncodeError, match=r"session\['a'\]\.inner\.x\[0\] can't"):
        CODEC.encode({"a": Box(Point([1j]))})  # type: ignore[arg-type]  # the bad value # pyright: ignore[reportArgumentType] # same


def test_the_path_goes_through_attrs() -> None:
    """Fields of attrs classes are steps as well."""

    @attrs.define
    class Box:
        inner: list[Any]

    with pytest.raises(SessionEncodeError, match=r"session\['a'\]\.inner\[1\] can't"):
        CODEC.encode({"a": Box([1, 1j])})


def test_a_value_is_replaced_while_it_is_the_same() -> None:
    """Another value under the key, and no such key, leave the data as they are."""
    data, one, two = CODEC.encode({"a": 1, "b": 1}), pack(1), pack(2)

    assert values.decode(values.replace(data, "b", one, two)) == {"a": 1, "b": 2}
    assert values.replace(data, "b", two, one) == data
    assert values.replace(data, "c", one, two) == data

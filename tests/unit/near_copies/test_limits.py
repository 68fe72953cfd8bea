"""How many copies are kept, of how many bytes, and which of them are too old to be kept."""

from __future__ import annotations

from typing import Any, cast

import pytest

from redis_sessions.stores import copies
from redis_sessions.stores.copies import Copies
from redis_sessions.stores.protocols import NearCopy


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Copies:
    """Three copies at most, of a hundred bytes."""
    monkeypatch.setattr(copies, "MAX_COPIES", 3)
    monkeypatch.setattr(copies, "MAX_BYTES", 100)
    return Copies()


def put(some: Copies, key: str, size: int = 10, asked_at: float = 1.0) -> None:
    some.put(key, NearCopy(bytes(size)), asked_at)


def there(some: Copies, *keys: str) -> list[str]:
    return [key for key in keys if some.get(key) is not None]


def counted(some: Copies) -> int:
    """The bytes that it believes to have."""
    return int(cast("Any", some)._bytes)


def test_the_least_recently_used_goes(few: Copies) -> None:
    """Serving a copy is using it, and so is replacing it."""
    for key in "abc":
        put(few, key)
    few.get("a")
    put(few, "b")
    put(few, "d")
    assert there(few, *"abcd") == ["a", "b", "d"]
    assert len(few) == 3


def test_entries_of_the_cache_go_first(few: Copies) -> None:
    """However many there are, they take no room from sessions; of them the oldest go first."""
    entries = ["session:cache:" + digit * 32 for digit in "0123"]
    put(few, "a")
    put(few, entries[0])
    put(few, entries[1])
    few.get(entries[0])
    put(few, entries[2])
    assert there(few, "a", *entries) == ["a", entries[0], entries[2]]
    for key in "bcd":
        put(few, key)
    assert there(few, *"abcd", *entries) == [*"bcd"]
    put(few, entries[3], 90)
    assert there(few, *"bcd", *entries) == [*"bcd"]
    few.forget_all(None)
    put(few, entries[3])
    few.forget_all([entries[3]])
    assert (len(few), counted(few)) == (0, 0)


def test_bytes_are_counted(few: Copies) -> None:
    """As many go as make room; what is replaced or forgotten counts no more."""
    put(few, "a", 40)
    put(few, "b", 40)
    put(few, "a", 50)
    assert counted(few) == 90
    put(few, "c", 60)
    assert there(few, *"abc") == ["c"]
    assert counted(few) == 60
    few.forget("c")
    few.forget("c")
    assert (len(few), counted(few)) == (0, 0)


def test_what_is_larger_than_all_is_not_kept(few: Copies) -> None:
    """And nothing else is, since all others went before it."""
    put(few, "a")
    put(few, "b", 101)
    assert (len(few), counted(few)) == (0, 0)


def test_forgetting_some_or_all(few: Copies) -> None:
    """A notice names keys, of which some may not be there; or it is about all."""
    for key in "abc":
        put(few, key)
    few.forget_all(["a", "x"])
    assert (there(few, *"abc"), counted(few)) == (["b", "c"], 20)
    few.forget_all(None)
    assert (len(few), counted(few)) == (0, 0)


def test_a_read_that_is_older_than_a_change(few: Copies) -> None:
    """What was asked for until the change isn't kept; what was asked for later is."""
    put(few, "a")
    few.forget_at("a", 2.0)
    put(few, "a", asked_at=2.0)
    put(few, "b", asked_at=2.0)
    assert there(few, "a", "b") == ["b"]
    put(few, "a", asked_at=2.1)
    assert there(few, "a") == ["a"]


def test_changes_are_forgotten_once_older_reads_are_answered(few: Copies) -> None:
    """As all that is answered from now on was asked for later."""
    few.forget_at("a", 2.0)
    few.forget_at("b", 3.0)
    few.answered(2.5)
    put(few, "a", asked_at=1.9)  # no such answer comes any more: it would be kept
    put(few, "b", asked_at=2.6)
    assert there(few, "a", "b") == ["a"]


def test_too_many_changes_count_for_all_keys(few: Copies) -> None:
    """They need bounded memory, and nothing that is older than one of them is kept."""
    put(few, "x")
    for at, key in enumerate("abcd", 2):
        few.forget_at(key, float(at))
    assert len(few) == 0
    assert cast("Any", few)._forgotten == {}
    put(few, "x", asked_at=5.0)
    assert len(few) == 0
    put(few, "x", asked_at=5.1)
    assert there(few, "x") == ["x"]

"""How a Cluster's node is, and which keys are its own."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from redis_sessions import StoreUnavailableError
from redis_sessions.connect.nodes import SLOTS, NodeHealth, tags

DOWN = StoreUnavailableError("a/0 can't serve now: The cluster is down", reason="server")


def owners_of(prefix: str, parts: list[str], owners: list[str | None]) -> list[str | None]:
    keys = [f"{prefix}{middle}{part}" for part in parts for middle in ("", "of:x:")]
    return [owners[key_slot(key.encode())] for key in keys]


def test_one_for_each() -> None:
    """Also for who has a single slot, and none for slots that nobody has."""
    owners: list[str | None] = [*["a"] * 9_000, "b", *["c"] * 5_000, *[None] * 2_383]
    assert len(owners) == SLOTS
    parts = tags("session:", owners)
    found = owners_of("session:", parts, owners)
    assert sorted(map(str, found)) == ["a", "a", "b", "b", "c", "c"]
    assert found[::2] == found[1::2]


def test_a_key_for_any_slot() -> None:
    """Found for certain, whatever was drawn."""
    found = owners_of("session:", tags("session:", range(SLOTS)), [str(n) for n in range(SLOTS)])
    assert set(found) == {str(n) for n in range(SLOTS)}


def test_a_prefix_with_a_hash_tag() -> None:
    """All keys are one node's."""
    owners: list[str | None] = [*["a"] * 8_192, *["b"] * 8_192]
    assert len(tags("{app}:", owners)) <= 1
    assert tags("{app}:", ["a"] * SLOTS) != []


def test_nobody_has_any() -> None:
    """Then there is no key."""
    assert tags("session:", [None] * SLOTS) == []


def test_a_node_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    """It is waited for at first, each kind of command by itself; told once, and once it is over."""
    health = NodeHealth("a/0")
    assert [health.note_down("writes", DOWN, now, 0.5) for now in (10.0, 10.4, 10.5, 11.0)] == [
        *(False, False),
        *(True, True),
    ]
    health.note_answer("loads")
    assert health.note_down("writes", DOWN, 11.1, 0.5)
    assert not health.note_down("loads", DOWN, 11.1, 0.5)
    assert [record.message for record in caplog.records] == [
        f"sessions: {DOWN}; requests that ask it get 503"
    ]
    caplog.clear()
    health.note_answer("writes")
    assert not caplog.records
    health.note_answer("loads")
    assert [record.message for record in caplog.records] == ["sessions: a/0 serves again"]
    assert not health.note_down("writes", DOWN, 12.0, 0.5)
    assert health.note_down("writes", DOWN, 12.6, 0.5)
    assert not health.note_down("writes", DOWN, 60.0, 0.5)  # another time


def test_a_node_that_others_replace(caplog: pytest.LogCaptureFixture) -> None:
    """It is told if it was in trouble, and when it has slots again nothing is known of it."""
    health = NodeHealth("a/0")
    health.note_map(False)
    health.note_map(True)
    assert not caplog.records
    health.trouble, health.away = "connection", StoreUnavailableError("it died")
    for known in (True, False, False):
        health.note_map(known)
    assert [record.message for record in caplog.records] == [
        "sessions: other nodes serve the slots of a/0"
    ]
    assert health.trouble == "connection"
    health.note_map(True)
    assert [health.trouble, health.away] == [None, None]

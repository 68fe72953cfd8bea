"""Which addresses are local, and which prefixes have a hash tag: what findings depend on."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from redis_sessions.cli.findings import is_local
from redis_sessions.connect.nodes import slot_of


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:6379", True),
        ("127.9.9.9:1", True),
        ("[::1]:6379", True),
        ("localhost:6379", True),
        ("unix:/tmp/s", True),
        ("10.0.0.1:6379", False),
        ("[2001:db8::1]:6379", False),
        ("localhost.example:6379", False),
    ],
)
def test_is_local(address: str, local: bool) -> None:
    """Loopback, and what is no network at all."""
    assert is_local(address) is local


@pytest.mark.parametrize(
    ("prefix", "has"),
    [("{app}:", True), ("a{b}{c", True), ("app:", False), ("{}{a}:", False), ("{app:", False)],
)
def test_a_hash_tag_is_what_a_cluster_takes_for_one(prefix: str, has: bool) -> None:
    """The first brace counts, if something is between it and the next closing one."""
    slots = {key_slot(f"{prefix}{number}".encode()) for number in range(4)}
    assert (len(slots) == 1) is has
    assert slot_of(prefix) == (slots.pop() if has else None)

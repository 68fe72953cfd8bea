"""What is sealed for one purpose, prefix and context opens for these alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_sessions.session.box import Box
from redis_sessions.session.keyring import Keyring, generate_key

OLD, NEW = generate_key(), generate_key()
BOX = Box(Keyring(NEW, OLD), "session:", b"rs-test")


def test_what_is_sealed_opens_again() -> None:
    """The same purpose, prefix and context open it, under a retired key as well."""
    earlier = Box(Keyring(OLD), "session:", b"rs-test")
    assert BOX.open("a", BOX.seal("a", b"hello")) == b"hello"
    assert BOX.open("a", earlier.seal("a", b"")) == b""


@pytest.mark.parametrize(
    ("box", "context"),
    [
        (BOX, "b"),
        (Box(Keyring(NEW), "other:", b"rs-test"), "a"),
        (Box(Keyring(NEW), "session:", b"rs-tesT"), "a"),
        (Box(Keyring(generate_key()), "session:", b"rs-test"), "a"),
    ],
    ids=["context", "prefix", "purpose", "key"],
)
def test_nothing_else_opens_it(box: Box, context: str) -> None:
    """Another context, prefix, purpose or key opens nothing."""
    assert box.open(context, BOX.seal("a", b"hello")) is None


@given(st.binary(max_size=80), st.integers(0, 60), st.integers(1, 255))
def test_other_bytes_open_nothing(noise: bytes, at: int, change: int) -> None:
    """Neither noise opens, nor a box of which one byte was changed, and nothing is raised."""
    sealed = bytearray(BOX.seal("a", b"hello"))
    sealed[at % len(sealed)] ^= change
    assert BOX.open("a", bytes(sealed)) is None
    assert BOX.open("a", noise) is None
    assert BOX.open("a", BOX.seal("a", b"hello")[:4] + noise[:40]) is None


def test_a_name_needs_the_key() -> None:
    """Each key of the ring has another name for a context, and so has each purpose and prefix."""
    names = BOX.names("alice") + BOX.names("bob")
    names += Box(Keyring(NEW), "other:", b"rs-test").names("alice")
    names += Box(Keyring(NEW), "session:", b"rs-other").names("alice")
    assert len({*names}) == 6
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)
    assert Box(Keyring(OLD), "session:", b"rs-test").names("alice") == BOX.names("alice")[1:]

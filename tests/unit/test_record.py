"""The stored record, byte for byte, and what opens it."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_secretbox_open

from redis_sessions import Keyring, MemoryStore, SessionManager, SessionToken, generate_key
from redis_sessions.session.record import (
    HEADER_SIZE,
    Alias,
    Record,
    Reject,
    Sealer,
    Stored,
    is_change,
    is_record,
    is_tombstone,
    key_id,
    layout,
    other_tombstone,
    rotated_at,
    tombstone,
    version,
)
from tests.support import sealing_key

KEYRING = Keyring(generate_key())
TOKEN = SessionToken.generate()


def make(data: bytes = b"\x81\xa1n\x01", **fields: Any) -> Record:
    values: dict[str, Any] = {
        "created_at": 1_800_000_000,
        "authenticated_at": 1_800_000_000_123,
        "seen_at": 1_800_000_100,
        "expires_at": 1_801_000_000,
        "idle": 604_800,
        "persistent": True,
        "owner": b"o" * 12,
        "binding": None,
        **fields,
    }
    return Record(**values, data=msgspec.Raw(data))


def test_the_layout() -> None:
    """Format, key id, rotated_at, nonce; then a secretbox under a key that the design derives."""
    sealed = Sealer(KEYRING, "app:").seal(TOKEN, make(), 0x01020304).sealed

    assert HEADER_SIZE == 33
    assert sealed[0:1] == b"\x01"
    assert sealed[1:5] == KEYRING.primary.id
    assert sealed[5:9] == b"\x01\x02\x03\x04"
    salt = blake2b(b"app:", digest_size=16, person=b"rs-prefix").digest()
    key = sealing_key(KEYRING.primary, sealed[0:9], TOKEN.value, salt)
    plain = crypto_secretbox_open(sealed[33:], sealed[9:33], key)
    assert msgspec.msgpack.decode(plain) == [
        1_800_000_000,
        1_800_000_000_123,
        1_800_000_100,
        1_801_000_000,
        604_800,
        True,
        b"o" * 12,
        None,
        {"n": 1},
        [],
        [],
        None,
    ]
    assert rotated_at(sealed) == 0x01020304


def test_what_was_sealed_opens() -> None:
    """Every field comes back, the data as the bytes that they were."""
    sealer = Sealer(KEYRING, "app:")

    opened = sealer.open(TOKEN, sealer.seal(TOKEN, make(), 7).sealed)

    assert isinstance(opened, Stored)
    assert opened.data == bytes(opened.record.data) == b"\x81\xa1n\x01"
    fields = [name for name in Record.__struct_fields__ if name != "data"]
    assert {f: getattr(opened.record, f) for f in fields} == {f: getattr(make(), f) for f in fields}


@given(
    data=st.dictionaries(st.text("ab"), st.binary(max_size=50)).map(msgspec.msgpack.encode),
    times=st.lists(st.integers(0, 2**40), min_size=3, max_size=3),
    owner=st.none() | st.binary(min_size=12, max_size=12),
    rotated=st.integers(0, 2**32 - 1),
)
def test_any_record_comes_back(
    data: bytes, times: list[int], owner: bytes | None, rotated: int
) -> None:
    """Whatever its fields are, and whenever it was rotated."""
    sealer = Sealer(KEYRING, "app:")
    record = make(data, created_at=times[0], seen_at=times[1], expires_at=times[2], owner=owner)

    sealed = sealer.seal(TOKEN, record, rotated).sealed
    opened = sealer.open(TOKEN, sealed)

    assert isinstance(opened, Stored)
    assert msgspec.msgpack.encode(opened.record) == msgspec.msgpack.encode(record)
    assert rotated_at(sealed) == rotated


class Older(msgspec.Struct, array_like=True, gc=False, kw_only=True, frozen=True):
    """A record of before it had methods: it ends with the data."""

    created_at: int
    authenticated_at: int | None
    seen_at: int
    expires_at: int
    idle: int
    persistent: bool
    owner: bytes | None
    binding: bytes | None
    data: msgspec.Raw


def test_a_record_of_an_older_version_opens() -> None:
    """What came later has its default, so that nobody is signed out by an update."""
    now = make(methods=("pwd", "otp"), aliases=(Alias("sid\0x", 1),))
    fields = {name: getattr(now, name) for name in Older.__struct_fields__}

    opened = msgspec.msgpack.decode(msgspec.msgpack.encode(Older(**fields)), type=Record)

    assert (opened.methods, opened.aliases) == ((), ())
    assert {name: getattr(opened, name) for name in fields if name != "data"} == {
        name: value for name, value in fields.items() if name != "data"
    }
    assert bytes(opened.data) == bytes(now.data)


def test_an_older_version_opens_a_record_of_this_one() -> None:
    """It ignores what it doesn't know, and leaves it out when it stores the session."""
    now = make(methods=("pwd", "otp"), aliases=(Alias("sid\0x", 1),))

    older = msgspec.msgpack.decode(msgspec.msgpack.encode(now), type=Older)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(older), type=Record)

    assert bytes(older.data) == bytes(now.data)
    assert (again.expires_at, again.owner) == (now.expires_at, now.owner)
    assert (again.methods, again.aliases) == ((), ())


def test_what_a_record_does_not_have_takes_three_bytes() -> None:
    """Without methods, aliases and an origin it is hardly larger than an older version's."""
    now = make()
    older = Older(**{name: getattr(now, name) for name in Older.__struct_fields__})
    assert len(msgspec.msgpack.encode(now)) - len(msgspec.msgpack.encode(older)) == 3


def test_it_opens_under_one_token_and_one_prefix_only() -> None:
    """Another secret for the same id, another id, another prefix, another key: none opens it."""
    sealed = Sealer(KEYRING, "app:").seal(TOKEN, make(), 0).sealed

    for at in range(64):
        other = "A" if TOKEN.value[at] != "A" else "B"
        near = SessionToken(TOKEN.value[:at] + other + TOKEN.value[at + 1 :])
        assert Sealer(KEYRING, "app:").open(near, sealed) is Reject.SEAL
    for prefix in ("app", "app:x", "", "App:"):
        assert Sealer(KEYRING, prefix).open(TOKEN, sealed) is Reject.SEAL
    assert Sealer(Keyring(generate_key()), "app:").open(TOKEN, sealed) is Reject.KEY


@pytest.mark.standard(27, "ASVS 11.3.3", "ASVS 11.3.4")
def test_each_sealing_is_another_version() -> None:
    """The same record sealed twice differs in its header, and nowhere shows its contents."""
    sealer = Sealer(KEYRING, "app:")
    record = make(msgspec.msgpack.encode({"name": "a secret name"}))

    sealed = [sealer.seal(TOKEN, record, 0).sealed for _ in range(200)]

    assert len({one[:HEADER_SIZE] for one in sealed}) == 200
    assert {one[:9] for one in sealed} == {sealed[0][:9]}
    assert not any(b"secret" in one or b"name" in one for one in sealed)


@pytest.mark.parametrize("size", [0, 10, 150, 2_000, 60_000])
async def test_it_is_at_most_110_bytes_larger_than_its_data(size: int) -> None:
    """Measured on what a signed-in session really stores, after a touch and a rotation too."""
    store = MemoryStore()
    manager = SessionManager(store, KEYRING, principal="user_id", max_age=400 * 24 * 3600)
    session = await manager.load()
    session.update(user_id="a" * 100, filler="x" * size)

    wishes: list[Callable[[], object]] = [
        dict,  # none
        session.rotate,
        session.authenticated,
        session.mark_modified,
    ]
    for wish in wishes:
        wish()
        await manager.commit(session)
        assert session.id is not None
        assert session.principal is not None
        assert session.authenticated_at is not None
        sealed = await store.load(session.id)
        assert sealed is not None
        assert len(sealed) - len(msgspec.msgpack.encode(dict(session))) <= 110


def test_a_tombstone_is_a_header_alone() -> None:
    """33 bytes that name no key, tell when, and open nothing; each is another version."""
    grave = tombstone(0x0A0B0C0D)

    assert len(grave) == HEADER_SIZE
    assert grave[0:5] == b"\x01\0\0\0\0"
    assert rotated_at(grave) == 0x0A0B0C0D
    assert is_tombstone(grave)
    assert Sealer(KEYRING, "app:").open(TOKEN, grave) is Reject.TOMBSTONE
    assert tombstone(0x0A0B0C0D) != grave
    assert not is_tombstone(grave + b"x")
    assert not is_tombstone(grave[:-1])


def test_the_parts_of_a_record() -> None:
    """Other modules ask for a part of stored bytes by its name, and put none of them together."""
    record = Sealer(KEYRING, "app:").seal(TOKEN, make(), 7).sealed

    parts = layout(record)
    assert (parts.format, parts.key_id, parts.rotated_at) == (1, KEYRING.primary.id, 7)
    assert version(record) + parts.box == record
    assert version(record).endswith(parts.nonce)
    assert key_id(record) == KEYRING.primary.id
    assert layout(tombstone(7)).box == b""


def test_a_record_a_tombstone_or_nothing() -> None:
    """Only a record may open."""
    record = Sealer(KEYRING, "app:").seal(TOKEN, make(), 7).sealed
    assert [is_record(stored) for stored in (record, tombstone(7), None)] == [True, False, False]


def test_a_change_keeps_the_token() -> None:
    """A rotation, an end and a new session are no changes."""
    sealer = Sealer(KEYRING, "app:")
    before, same, rotated = (sealer.seal(TOKEN, make(), at).sealed for at in (7, 7, 8))

    assert is_change(same, before)
    assert is_change(same, version(before))
    assert not is_change(rotated, version(before))
    assert not is_change(tombstone(7), version(before))
    assert not is_change(same, b"")


def test_another_tombstone_that_says_the_same() -> None:
    """It has another version, the same time, and takes any last byte."""
    for last in (b"\0", b"\xff"):
        one = tombstone(7)[:-1] + last
        other = other_tombstone(one)
        assert is_tombstone(other)
        assert other != one
        assert rotated_at(other) == 7


@pytest.mark.parametrize("size", [0, 1, 4, 8, 9, 32])
def test_less_than_a_header_is_truncated(size: int) -> None:
    """Nothing is looked up in bytes that aren't there."""
    short = tombstone(1)[:size]

    assert Sealer(KEYRING, "app:").open(TOKEN, short) is Reject.TRUNCATED
    assert rotated_at(short) <= 1


@given(st.binary(max_size=200))
def test_opening_never_raises(stored: bytes) -> None:
    """Whatever the bytes are, the answer is a reason."""
    assert isinstance(Sealer(KEYRING, "app:").open(TOKEN, stored), Reject)


def test_it_lives_until_the_earlier_of_its_ends() -> None:
    """Idle or absolute, whichever comes first."""
    sealer = Sealer(KEYRING, "app:")
    for expires_at, ends in ((1000, 150), (120, 120)):
        record = make(seen_at=100, idle=50, expires_at=expires_at)
        assert sealer.seal(TOKEN, record, 0).ends == ends


def test_a_record_is_amended_in_a_copy() -> None:
    """The given fields change, the original doesn't."""
    record = make()

    amended = record.amended(seen_at=5, data=b"\x80")

    assert (amended.seen_at, bytes(amended.data)) == (5, b"\x80")
    assert (record.seen_at, bytes(record.data)) == (1_800_000_100, b"\x81\xa1n\x01")


def test_nothing_shows_its_data() -> None:
    """A record's repr, and its sealer's, hold neither data nor keys."""
    secret = generate_key()
    record = make(msgspec.msgpack.encode({"name": "a secret name"}))

    shown = repr(record) + repr(Sealer(Keyring(secret), "app:"))

    assert "secret name" not in shown
    assert secret not in shown

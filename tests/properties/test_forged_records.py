"""Valid seals around what is no session, or has outlived its time."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_sessions import MemoryStore, SessionToken
from tests.properties.sealed_records import DAY, Vault, forge, plaintext
from tests.properties.strategies import examples, storable
from tests.support.asgi import Reply
from tests.support.site import Site, assert_rejected

NOW = time.time()
DEEP = b"\x91" * 100_000 + b"\xc0"
UNDECODABLE = {
    "nothing": b"",
    "zeros": bytes(100),
    "text": b"hello",
    "JSON": b'[1,null,1,1,1,true,null,null,{"user_id":1}]',
    "a map": msgspec.msgpack.encode({"user_id": 1}),
    "an empty array": b"\x90",
    "an array that is too short": plaintext(b"\x80", NOW)[:-1],
    "a field missing": msgspec.msgpack.encode([1, None, 1, 1, 1, True, None, None]),
    "times that are text": plaintext(b"\x80", NOW, seen_at="1"),
    "times that are floats": plaintext(b"\x80", NOW, expires_at=1e12 + 0.5),
    "times that are nil": plaintext(b"\x80", NOW, created_at=None),
    "a flag that is a number": plaintext(b"\x80", NOW, persistent=1),
    "an owner that is text": plaintext(b"\x80", NOW, owner="ann"),
    "trailing bytes": plaintext(b"\x80", NOW) + b"\x80",
    "a huge declared array": b"\xdd\xff\xff\xff\xff",
    "a huge declared text": b"\xdb\xff\xff\xff\xff",
    "deeply nested": DEEP,
    "data: nil": plaintext(b"\xc0", NOW),
    "data: a number": plaintext(b"\x01", NOW),
    "data: an array": plaintext(b"\x91\x01", NOW),
    "data: text": plaintext(b"\xa1a", NOW),
    "data: bytes": plaintext(b"\xc4\x01\x80", NOW),
    "data: two maps": plaintext(b"\x80\x80", NOW),
    "data: cut off": plaintext(b"\x82\xa1a\x01", NOW),
    "data: invalid UTF-8 in a key": plaintext(b"\x81\xa1\xff\x01", NOW),
    "data: invalid UTF-8 in a value": plaintext(b"\x81\xa1a\xa2\xc3\x28", NOW),
    "data: a surrogate": plaintext(b"\x81\xa1a\xa3\xed\xa0\x80", NOW),
    "data: a map as a key": plaintext(b"\x81\x80\x01", NOW),
    "data: an array with a map as a key": plaintext(b"\x81\x91\x80\x01", NOW),
    "data: an unknown extension as a key": plaintext(b"\x81\xd4\x05\x01\x01", NOW),
    "data: a bad timestamp": plaintext(b"\x81\xa1a\xd7\xff" + b"\xff" * 8, NOW),
    "data: a timestamp of no length": plaintext(b"\x81\xa1a\xd5\xff\x00\x00", NOW),
    "data: a timestamp beyond all years": plaintext(
        b"\x81\xa1a\xc7\x0c\xff\x00\x00\x00\x00\x7f" + b"\xff" * 7, NOW
    ),
    "data: the byte that MessagePack never uses": plaintext(b"\x81\xa1a\xc1", NOW),
    "data: a huge declared map": plaintext(b"\xdf\xff\xff\xff\xff", NOW),
    "data: deeply nested": plaintext(b"\x81\xa1a" + DEEP, NOW),
}


@pytest.mark.parametrize("plain", UNDECODABLE.values(), ids=UNDECODABLE)
async def test_a_valid_seal_around_garbage(plain: bytes, vault: Vault) -> None:
    """What decrypts but doesn't decode is no session either."""
    token = SessionToken.generate()

    await vault.rejects(token, forge(token, plain, prefix=vault.prefix), "undecodable")


async def read_sealed(plain: bytes) -> tuple[Site, SessionToken, bytes, Reply]:
    """What a request sees of a forged record; it is stored still, as it was or renewed."""
    store = MemoryStore()
    site, token = Site(store), SessionToken.generate()
    sealed = forge(token, plain)
    await store.commit(token.id, None, sealed, DAY)
    return site, token, sealed, await site.visit(token)


async def test_a_forged_record_opens() -> None:
    """Without that, every other forgery here would fail for a wrong reason."""
    *_, reply = await read_sealed(plaintext(b"\x81\xa1n\x01", time.time()))

    assert (reply.error, reply.seen, reply.is_new) == (None, {"n": 1}, False)


@pytest.mark.standard(33, "ASVS 1.5.2")
@examples
@given(plain=st.one_of(st.binary(max_size=200), storable.map(msgspec.msgpack.encode)))
async def test_a_valid_seal_around_anything(plain: bytes) -> None:
    """Random bytes and MessagePack of other shapes, sealed by the right key, are no session."""
    site, token, sealed, reply = await read_sealed(plain)

    assert_rejected(site, reply, "undecodable", token.id)
    assert await site.store.load(token.id) == sealed


@examples
@given(data=st.one_of(st.binary(max_size=100), storable.map(msgspec.msgpack.encode)))
async def test_a_record_around_any_data(data: bytes) -> None:
    """A record whose data are anything is a session if they are a map, else none."""
    site, token, sealed, reply = await read_sealed(plaintext(data, time.time()))

    assert (reply.error, reply.status) == (None, 200)
    if reply.is_new:
        assert_rejected(site, reply, "undecodable", token.id)
    else:
        assert data[0] & 0xF0 == 0x80 or data[0] in (0xDE, 0xDF)
    assert await site.store.load(token.id) == sealed


@pytest.mark.standard(12)
@pytest.mark.parametrize(
    "times",
    [
        {"expires_at": 1},
        {"seen_at": 1},
        {"idle": 0},
        {"idle": -(2**63)},
        {"seen_at": -(2**63)},
        {"expires_at": -1},
    ],
    ids=repr,
)
async def test_a_record_that_outlived_its_time(times: dict[str, int], vault: Vault) -> None:
    """A record's own times count, whatever TTL Redis has."""
    token = SessionToken.generate()
    stored = forge(token, plaintext(b"\x80", time.time(), **times), prefix=vault.prefix)

    await vault.rejects(token, stored, "expired")


times = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**62, 2**63 - 1, 2**64 - 1, int(NOW), int(NOW) - 60]),
)


@examples
@given(
    fields=st.fixed_dictionaries(
        {
            "created_at": times,
            "authenticated_at": st.none() | times,
            "seen_at": times,
            "expires_at": times,
            "idle": times,
            "persistent": st.booleans(),
            "owner": st.none() | st.binary(max_size=20),
            "binding": st.none() | st.binary(max_size=20),
        }
    )
)
async def test_a_record_with_any_times(fields: dict[str, Any]) -> None:
    """Times that no clock ever showed cost a reader no exception: live, or expired."""
    site, token, _, reply = await read_sealed(plaintext(b"\x81\xa1n\x01", NOW, **fields))

    assert (reply.error, reply.status) == (None, 200)
    ends = min(fields["seen_at"] + fields["idle"], fields["expires_at"])
    if ends > time.time():
        assert reply.seen == {"n": 1}
    else:
        assert_rejected(site, reply, "expired", token.id)


@pytest.mark.parametrize("value", [{"sub": 1}, [1], True, 1.5, b"ann", None, "", 0], ids=repr)
async def test_a_stored_principal_of_a_wrong_type(value: object) -> None:
    """Data that another `principal=` option left behind cost their readers no exception."""
    data = msgspec.msgpack.encode({"user_id": value, "n": 1})
    *_, reply = await read_sealed(plaintext(data, time.time()))

    assert (reply.error, reply.status) == (None, 200)

"""Secret keys: what is one, which opens, and that none shows."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from redis_sessions import ConfigurationError, Keyring, SessionToken, generate_key
from redis_sessions.session.keyring import SecretKey
from redis_sessions.session.record import Record, Reject, Sealer, Stored
from tests.support import sealing_key

OLD, NEW = "the old secret key, which is long enough", "the new secret key, which is long enough"


def make_record() -> Record:
    return Record(
        created_at=1,
        authenticated_at=None,
        seen_at=1,
        expires_at=2,
        idle=1,
        persistent=True,
        owner=None,
        binding=None,
        data=msgspec.Raw(b"\x80"),
    )


def key_id(key: bytes) -> bytes:
    return blake2b(key, digest_size=4, person=b"rs-key-id").digest()


def test_a_generated_key_is_32_bytes() -> None:
    """44 characters of base64url, another one each time."""
    key = generate_key()

    assert len(key) == 44
    assert len(urlsafe_b64decode(key)) == 32
    assert generate_key() != key
    assert SecretKey(key).id == key_id(urlsafe_b64decode(key))


def test_what_was_printed_is_the_key_itself() -> None:
    """44 characters of base64url are the 32 bytes that they spell, as text or as bytes."""
    raw = b"\xfb\xff" * 8 + bytes(range(16))
    printed = urlsafe_b64encode(raw)

    assert b"-" in printed
    assert b"_" in printed
    assert SecretKey(printed).id == SecretKey(printed.decode()).id == key_id(raw)


@pytest.mark.parametrize(
    "text",
    [
        "abcdefgh" * 4,
        "abcdefghijk" * 4,
        ("abcdefghijk" * 4)[:-1] + "=",
        " " + urlsafe_b64encode(bytes(range(32))).decode()[1:],
        urlsafe_b64encode(bytes(range(31))).decode(),
        b64encode(b"\xfb\xff" * 8 + bytes(range(16))).decode(),  # the other alphabet: "+" and "/"
        urlsafe_b64encode(bytes(range(32))).decode()[:-2] + "9=",  # bits that the decoder drops
        "abcdefgh" * 10_000,
        "ключ, достаточно длинный для всех",
        "a lone surrogate \ud800, and enough characters",
    ],
    ids=lambda text: f"{len(text)} {text[:3] + text[-3:]!a}",
)
def test_any_other_text_is_hashed(text: str) -> None:
    """At least 32 bytes of anything else are hashed to a key: none is decoded in part."""
    encoded = text.encode("utf-8", "surrogatepass")
    hashed = blake2b(encoded, digest_size=32, person=b"rs-key").digest()

    assert SecretKey(text).id == key_id(hashed)
    assert SecretKey(encoded).id == key_id(hashed)


@pytest.mark.parametrize("secret", ["", "x", "x" * 31, b"x" * 31, b""], ids=repr)
def test_a_short_key_is_refused(secret: str | bytes) -> None:
    """The error says how long it is and how to make one, not what it was."""
    with pytest.raises(ConfigurationError) as caught:
        Keyring(secret)

    text = str(caught.value)
    assert f"{len(secret)} characters" in text
    assert "at least 32" in text
    assert "redis-sessions key" in text
    assert "xx" not in text


@pytest.mark.parametrize(
    "secret",
    [
        *("x" * 32, " " * 32, b"\0" * 32, "abcdefg" * 9),
        urlsafe_b64encode(bytes(32)).decode(),
        "\N{SNOWMAN}" * 20,
    ],
    ids=repr,
)
def test_a_key_without_variety_is_refused(secret: str | bytes) -> None:
    """The error says how many different characters it has, not which."""
    with pytest.raises(ConfigurationError, match=r"of its characters \d differ") as caught:
        Keyring(secret)

    assert "redis-sessions key" in str(caught.value)


def test_a_dropped_key_is_not_in_the_ring() -> None:
    """Its id is known, and nothing opens, is sealed or is looked for with it."""
    ring = Keyring(NEW, dropped=[OLD])

    assert ring.is_dropped(SecretKey(OLD).id)
    assert not ring.is_dropped(SecretKey(NEW).id)
    assert ring.get(SecretKey(OLD).id) is None
    assert [key.id for key in ring.keys] == [SecretKey(NEW).id]
    assert not ring.owns(SecretKey(OLD).owner("ann"), "ann")


@pytest.mark.parametrize(
    ("keys", "dropped", "match"),
    [
        ([NEW], [NEW], "in use as well"),
        ([NEW, OLD], [OLD.encode()], "in use as well"),
        ([NEW], OLD, r"no list of keys: write dropped=\[old\]"),
        ([NEW], None, r"no list of keys: write dropped=\[old\]"),
        ([NEW], 5, r"no list of keys: write dropped=\[old\]"),
        ([NEW], ["short"], "at least 32"),
    ],
)
def test_what_cannot_be_dropped(keys: list[str], dropped: Any, match: str) -> None:
    """A key that is in use, and what is no list of keys."""
    with pytest.raises(ConfigurationError, match=match):
        Keyring(*keys, dropped=dropped)


def test_the_same_key_twice_is_refused() -> None:
    """However it is written."""
    with pytest.raises(ConfigurationError, match="write each key once"):
        Keyring(OLD, NEW, OLD)
    with pytest.raises(ConfigurationError, match="write each key once"):
        Keyring(OLD, OLD.encode())


def test_equal_ids_of_different_keys_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys whose 4-byte ids happen to be equal can't be told apart by a record."""

    def same(data: bytes, **options: object) -> object:
        return blake2b(b"", digest_size=32 if options["digest_size"] == 32 else 4)

    monkeypatch.setattr("redis_sessions.session.keyring.blake2b", same)

    with pytest.raises(ConfigurationError, match="the same id"):
        Keyring(OLD, NEW)


def test_the_primary_seals_and_the_retired_opens() -> None:
    """One lookup by the id in the record finds the key; an unknown id is none."""
    token, record = SessionToken.generate(), make_record()
    ring = Keyring(NEW, OLD)
    sealer = Sealer(ring, "p:")
    of_old = Sealer(Keyring(OLD), "p:").seal(token, record, 0).sealed

    sealed = sealer.seal(token, record, 0).sealed

    assert sealed[1:5] == SecretKey(NEW).id == ring.primary.id
    assert isinstance(sealer.open(token, sealed), Stored)
    assert isinstance(sealer.open(token, of_old), Stored)
    assert Sealer(Keyring(NEW), "p:").open(token, of_old) is Reject.KEY
    assert ring.get(SecretKey(OLD).id) is ring.keys[1]
    assert ring.get(b"\0\0\0\0") is None
    assert ring.get(b"") is None


@pytest.mark.standard(29, "ASVS 11.2.2", "ASVS 13.3.4")
def test_a_new_key_rolls_out_without_a_gap() -> None:
    """`[old]`, `[old, new]`, `[new, old]`: neighbours in the roll-out read each other's records."""
    token, record = SessionToken.generate(), make_record()
    stages = [Sealer(Keyring(*keys), "p:") for keys in ([OLD], [OLD, NEW], [NEW, OLD])]

    for one, other in pairwise(stages):
        assert isinstance(other.open(token, one.seal(token, record, 0).sealed), Stored)
        assert isinstance(one.open(token, other.seal(token, record, 0).sealed), Stored)
    assert stages[0].open(token, stages[2].seal(token, record, 0).sealed) is Reject.KEY


@pytest.mark.parametrize("by", [OLD, NEW], ids=["retired", "primary"])
def test_what_takes_a_records_place(by: str) -> None:
    """It is sealed by the primary key with another nonce, and opens under the same token."""
    token, record = SessionToken.generate(), make_record()
    sealed = Sealer(Keyring(by), "p:").seal(token, record, 7).sealed
    opened = Sealer(Keyring(NEW, OLD), "p:").open(token, sealed)
    assert isinstance(opened, Stored)

    again = Sealer(Keyring(NEW, OLD), "p:").seal_again(opened, record.with_data(b"\x80"))

    assert (again.sealed[1:5], again.rotated_at) == (SecretKey(NEW).id, 7)
    assert again.version != opened.version
    found = Sealer(Keyring(NEW), "p:").open(token, again.sealed)
    assert isinstance(found, Stored)
    assert (found.data, found.key) == (b"\x80", again.key)
    assert Sealer(Keyring(NEW), "p:").open(SessionToken.generate(), again.sealed) is Reject.SEAL


def test_an_owner_is_recognised_under_every_key() -> None:
    """Its digest is keyed, 12 bytes, and says nothing but whether two principals are the same."""
    digest = SecretKey(OLD).owner("ann")

    assert len(digest) == 12
    assert Keyring(NEW, OLD).owns(digest, "ann")
    assert not Keyring(NEW, OLD).owns(digest, "bob")
    assert not Keyring(NEW).owns(digest, "ann")
    assert SecretKey(NEW).owner("ann") != digest
    assert len(SecretKey(OLD).owner("\ud800")) == 12


def test_a_sealing_key_depends_on_everything() -> None:
    """The secret key, the public context, the whole token, the prefix."""
    key = SecretKey(OLD)
    keys = {
        sealing_key(key, b"context", "token", b"salt"),
        sealing_key(key, b"contexT", "token", b"salt"),
        sealing_key(key, b"context", "tokeN", b"salt"),
        sealing_key(key, b"context", "token", b"salT"),
        sealing_key(SecretKey(NEW), b"context", "token", b"salt"),
    }

    assert len(keys) == 5
    assert {len(made) for made in keys} == {32}


@pytest.mark.standard(30, "ASVS 13.3.1")
def test_nothing_shows_a_key() -> None:
    """repr and str show ids alone; there is no __dict__ to dump."""
    secret = generate_key()
    ring = Keyring(secret, OLD)
    raw = urlsafe_b64decode(secret)

    for shown in (repr(ring), str(ring), f"{ring}", repr(ring.primary), str(ring.keys)):
        assert ring.primary.id.hex() in shown
        assert secret not in shown
        assert OLD not in shown
        assert raw.hex() not in shown
        assert repr(raw)[2:-1] not in shown
    assert not hasattr(ring, "__dict__")
    assert not hasattr(ring.primary, "__dict__")

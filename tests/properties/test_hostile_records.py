"""Stored bytes that open nothing: no session, counted, and left as they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.asyncio import Redis

from redis_sessions import Event, Keyring, MemoryStore, Session, SessionToken
from redis_sessions.session.record import tombstone
from tests.properties.sealed_records import (
    DATA,
    DAY,
    HEADER,
    Vault,
    flipped,
    forge,
    plaintext,
    write,
)
from tests.properties.strategies import examples
from tests.support.site import Site, assert_rejected


def reason_at(byte: int) -> str:
    """Why a record is refused whose byte at this place was altered."""
    if byte == 0:
        return "unknown format"
    return "unknown key id" if byte < 5 else "authentication failed"


async def test_truncated_at_every_length(vault: Vault) -> None:
    """A record of which only the beginning is left opens nothing."""
    token = await vault.site.store_session(DATA)
    stored = await vault.get(token)
    assert (await vault.site.visit(token)).seen == DATA

    for length in range(len(stored)):
        reason = "truncated" if length < HEADER else "authentication failed"
        await vault.rejects(token, stored[:length], "tombstone" if length == HEADER else reason)

    await vault.put(token, stored)
    assert (await vault.site.visit(token)).seen == DATA


async def test_each_bit_of_the_header_is_authentic(vault: Vault) -> None:
    """No bit of what is stored in clear can be altered, and the reason says which part was."""
    token = await vault.site.store_session(DATA)
    stored = await vault.get(token)

    for bit in range(HEADER * 8):
        await vault.rejects(token, flipped(stored, bit), reason_at(bit // 8))


def changed(stored: bytes, how: str, at: int, new: bytes) -> bytes:
    end = at + len(new)
    match how:
        case "replaced":
            return stored[:at] + new + stored[end:]
        case "inserted":
            return stored[:at] + new + stored[at:]
        case "appended":
            return stored + new
        case "removed":
            return stored[:at] + stored[end:]
        case _:
            return flipped(stored, at * 8 + new[0] % 8)


# Drawn ahead: hypothesis can't stop an asynchronous test in its middle.
@pytest.mark.standard(27, "ASVS 11.3.3", "ASVS 11.3.4")
@examples
@given(
    how=st.sampled_from(["flipped", "replaced", "inserted", "appended", "removed"]),
    place=st.integers(0, 1000),
    new=st.binary(min_size=1, max_size=40),
)
async def test_altered_bytes_open_nothing(how: str, place: int, new: bytes, vault: Vault) -> None:
    """Nor can the box: bits flipped, bytes replaced, inserted, appended or removed."""
    token = await vault.site.store_session(DATA)
    stored = await vault.get(token)
    altered = changed(stored, how, HEADER + place % (len(stored) - HEADER), new)
    assume(altered != stored and len(altered) > HEADER)

    await vault.rejects(token, altered, "authentication failed")


@pytest.mark.standard(28, "ASVS 11.2.5")
@examples
@given(stored=st.binary(max_size=200))
async def test_any_bytes_open_nothing(stored: bytes, vault: Vault) -> None:
    """Whatever bytes are under a session's key, reading them costs no exception."""
    token = SessionToken.generate()
    await vault.put(token, stored)

    reply = await vault.site.visit(token)

    (event,) = vault.site.events
    assert_rejected(vault.site, reply, str(event.reason), token.id)
    assert await vault.get(token) == stored


async def test_records_swapped_between_sessions_open_nothing(vault: Vault) -> None:
    """A reply that was mixed up between two sessions reads as no session, on both sides."""
    one = await vault.site.store_session({"user_id": "ann"})
    other = await vault.site.store_session({"user_id": "bob"})
    of_one, of_other = await vault.get(one), await vault.get(other)

    await vault.rejects(one, of_other, "authentication failed")
    await vault.rejects(other, of_one, "authentication failed")

    await vault.put(one, of_one)
    await vault.put(other, of_other)
    assert (await vault.site.visit(one)).seen == {"user_id": "ann"}
    assert (await vault.site.visit(other)).seen == {"user_id": "bob"}


async def test_a_batch_with_bad_records_serves_the_others(vault: Vault) -> None:
    """What one key holds doesn't matter to the requests that share its MGET."""
    good = [await vault.site.store_session({"n": n}) for n in range(3)]
    bad = [SessionToken.generate() for _ in range(3)]
    await vault.client.rpush(vault.key(bad[0]), "x")
    await vault.put(bad[1], b"")
    manager = vault.site.manager

    found = await asyncio.gather(*(manager.load(token.value) for token in [*bad, *good]))

    assert [dict(session) for session in found] == [{}, {}, {}, {"n": 0}, {"n": 1}, {"n": 2}]


async def test_the_secret_is_needed(vault: Vault) -> None:
    """Who knows an id, which may be logged, and makes up a secret gets nothing."""
    token = await vault.site.store_session(DATA)

    await vault.rejects(
        SessionToken.generate(token.id), await vault.get(token), "authentication failed"
    )


@pytest.mark.parametrize("version", [0, 2, 0x7F, 0x80, 0xFF])
async def test_an_unknown_format(version: int, vault: Vault) -> None:
    """A later version's record is another deployment's: neither read nor replaced."""
    token = await vault.site.store_session(DATA)
    stored = await vault.get(token)

    await vault.rejects(token, bytes([version]) + stored[1:], "unknown format")


async def test_an_unknown_key(vault: Vault) -> None:
    """A record under a key that isn't in the ring is neither read nor replaced."""
    token = SessionToken.generate()
    other = Keyring("another secret key, also long enough")
    stored = forge(token, plaintext(b"\x80", time.time()), prefix=vault.prefix, keyring=other)

    await vault.rejects(token, stored, "unknown key id")


async def test_another_prefix(vault: Vault) -> None:
    """A record copied from another application's prefix opens nothing."""
    token = SessionToken.generate()
    stored = forge(token, plaintext(b"\x80", time.time()), prefix="other:")

    await vault.rejects(token, stored, "authentication failed")


@pytest.mark.parametrize("rotated_at", [0, 1, 2**32 - 1])
async def test_a_tombstone(rotated_at: int, vault: Vault) -> None:
    """A header alone says that a session ended here, however long ago or ahead its clock was."""
    await vault.rejects(SessionToken.generate(), tombstone(rotated_at), "tombstone")


MAKE: dict[str, Callable[[Redis, str], Awaitable[Any]]] = {
    "list": lambda client, key: client.rpush(key, "x"),
    "hash": lambda client, key: client.hset(key, "x", "y"),
    "set": lambda client, key: client.sadd(key, "x"),
    "zset": lambda client, key: client.zadd(key, {"x": 1}),
    "stream": lambda client, key: client.xadd(key, {"x": "y"}),
}


@pytest.mark.parametrize("kind", MAKE)
async def test_a_key_of_another_type(kind: str, vault: Vault) -> None:
    """A key that holds no string is an unknown id, and keeps what it holds."""
    token = SessionToken.generate()
    key = vault.key(token)
    await MAKE[kind](vault.client, key)
    dump = await vault.client.dump(key)

    reply = await vault.site.visit(token)
    assert_rejected(vault.site, reply, "unknown id", token.id)

    reply = await vault.site.visit(token, act=write)
    assert reply.error is None
    assert reply.token.id != token.id
    assert (await vault.site.visit(token, act=Session.clear)).status == 200
    assert await vault.client.dump(key) == dump


async def test_a_failing_handler_of_events_costs_no_request() -> None:
    """What `on_event` raises is the application's, and logged."""

    def fail(event: Event) -> None:
        raise RuntimeError(event.name)

    store = MemoryStore()
    site = Site(store, on_event=fail)
    token = SessionToken.generate()
    await store.commit(token.id, None, b"garbage", DAY)

    reply = await site.visit(token)

    assert (reply.error, reply.seen) == (None, {})
    assert site.manager.counts["rejected: truncated"] == 1

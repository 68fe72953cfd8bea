"""Stored bytes that open nothing: no session, counted, and left as they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.asyncio import Redis

from redis_sessions import (
    Event,
    Keyring,
    MemoryStore,
    RedisStore,
    Session,
    SessionGoneError,
    SessionToken,
)
from redis_sessions.record import is_tombstone, tombstone
from tests.properties.harness import (
    Reply,
    Site,
    assert_rejected,
    examples,
    forge,
    plaintext,
    storable,
)
from tests.support import as_owner

HEADER = 33
NAME = "the principal"  # with a space, which no token has
DATA = {"user_id": NAME, "cart": [1, 2, 3]}
DAY = 24 * 3600 * 1000


class Vault:
    """A site on real Redis, and what its keys really hold."""

    def __init__(self, site: Site, client: Redis) -> None:
        self.site, self.client = site, client
        self.prefix = site.store.prefix

    def key(self, token: SessionToken) -> str:
        return self.prefix + token.id

    async def get(self, token: SessionToken) -> bytes:
        stored = await self.client.get(self.key(token))
        assert isinstance(stored, bytes)
        return stored

    async def put(self, token: SessionToken, stored: bytes) -> None:
        await self.client.set(self.key(token), stored, px=DAY)
        self.site.manager.counts.clear()
        self.site.events.clear()

    async def rejects(self, token: SessionToken, stored: bytes, reason: str) -> None:
        """These bytes read as no session, for that reason, and nobody touches them."""
        await self.put(token, stored)

        reply = await self.site.visit(token)
        assert_rejected(self.site, reply, reason, token.id)
        assert reply.cookies == []
        assert await self.get(token) == stored

        # Not even a request that writes, or ends what it sees, reaches them.
        for act in (write, write_and_rotate, Session.clear):
            reply = await self.site.visit(token, act=act)
            assert (reply.error, reply.status) == (None, 200)
            assert await self.get(token) == stored
        assert not self.secrets_told(token)

    def secrets_told(self, token: SessionToken) -> bool:
        told = repr(self.site.events) + repr(self.site.manager.counts)
        return token.value[20:] in told or NAME in told


def write(session: Session) -> None:
    session["n"] = 1


def write_and_rotate(session: Session) -> None:
    session["n"] = 1
    session.rotate()


@pytest.fixture
async def vault(redis_url: str, prefix: str) -> AsyncIterator[Vault]:
    store = RedisStore(redis_url, prefix=prefix)
    async with Redis.from_url(as_owner(redis_url)) as client:
        yield Vault(Site(store), client)
    await store.close()


def reason_at(byte: int) -> str:
    """Why a record is refused whose byte at this place was altered."""
    if byte == 0:
        return "unknown format"
    return "unknown key id" if byte < 5 else "authentication failed"


def flipped(stored: bytes, bit: int) -> bytes:
    altered = bytearray(stored)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


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


async def test_a_session_that_becomes_another_type_meanwhile(vault: Vault) -> None:
    """A commit onto a key that holds no string any more fails, and leaves it."""
    token = await vault.site.store_session({"n": 0})

    async def act(session: Session) -> None:
        await vault.client.delete(vault.key(token))
        await vault.client.rpush(vault.key(token), "x")
        session["n"] = 1

    reply = await vault.site.visit(token, act=act)

    assert reply.status == 500
    assert await vault.client.lrange(vault.key(token), 0, -1) == [b"x"]


DAMAGE: dict[str, Callable[[SessionToken, bytes], bytes]] = {
    "less than a header": lambda token, stored: stored[:20],
    "empty": lambda token, stored: b"",
    "altered in the header": lambda token, stored: flipped(stored, 8 * HEADER - 1),
    "altered in the key id": lambda token, stored: flipped(stored, 8),
    "garbage": lambda token, stored: b"garbage" * 30,
    "undecodable": lambda token, stored: forge(token, b"[]"),
    "data that are no map": lambda token, stored: forge(token, plaintext(b"\x91\x01", time.time())),
    "data that are cut off": lambda token, stored: forge(token, plaintext(b"\x81", time.time())),
}


class Meanwhile:
    """A stored session that is damaged while a request is using it."""

    def __init__(self, damage: Callable[[SessionToken, bytes], bytes]) -> None:
        self._damage = damage
        self.store = MemoryStore()
        self.site = Site(self.store)
        self.damaged = b""

    async def visit(self, data: dict[str, Any], act: Callable[[Session], Any]) -> Reply:
        self.token = await self.site.store_session(data)
        stored = await self.store.load(self.token.id)
        assert stored is not None
        self.damaged = self._damage(self.token, stored)

        async def damage_and_act(session: Session) -> None:
            await self.store.end(self.token.id, self.damaged, DAY)  # puts any bytes there
            done = act(session)
            if isinstance(done, Awaitable):
                await done

        return await self.site.visit(self.token, act=damage_and_act)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("act", [write, write_and_rotate])
async def test_damaged_while_a_request_changes_it(
    damage: Callable[[SessionToken, bytes], bytes], act: Callable[[Session], None]
) -> None:
    """A record that doesn't open any more is gone: the change is dropped, with an event."""
    meanwhile = Meanwhile(damage)

    reply = await meanwhile.visit({"n": 0}, act)

    assert (reply.error, reply.status, reply.cookies) == (None, 200, [])
    assert [(event.name, event.id) for event in meanwhile.site.events] == [
        ("dropped", meanwhile.token.id)
    ]
    assert await meanwhile.store.load(meanwhile.token.id) == meanwhile.damaged


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("awaited", [Session.save, Session.refresh])
async def test_damaged_while_a_request_awaits_it(
    damage: Callable[[SessionToken, bytes], bytes], awaited: Callable[[Session], Awaitable[None]]
) -> None:
    """`save()` and `refresh()` raise SessionGoneError, and leave it as it is."""
    meanwhile = Meanwhile(damage)
    caught: list[type[Exception]] = []

    async def act(session: Session) -> None:
        session["n"] = 1
        try:
            await awaited(session)
        except SessionGoneError as exc:
            caught.append(SessionGoneError)
            raise exc from None

    reply = await meanwhile.visit({"n": 0}, act)

    assert caught == [SessionGoneError]
    assert (reply.status, reply.cookies) == (409, [])
    assert await meanwhile.store.load(meanwhile.token.id) == meanwhile.damaged


ENDINGS: dict[str, Callable[[SessionToken, bytes], bytes | None]] = {
    "nothing": lambda token, stored: None,
    "a tombstone of now": lambda token, stored: tombstone(int(time.time())),
    "a tombstone of a revocation": lambda token, stored: tombstone(0),
    "truncated": lambda token, stored: stored[:20],
    "another's": lambda token, stored: forge(SessionToken.generate(), b""),
    "expired": lambda token, stored: forge(token, plaintext(b"\x80", 1)),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("awaited", [Session.save, Session.refresh])
async def test_an_ended_session_is_not_reborn(
    ending: Callable[[SessionToken, bytes], bytes | None],
    awaited: Callable[[Session], Awaitable[None]],
    vault: Vault,
) -> None:
    """A request that learns by `refresh()` or `save()` that its session ended, and goes on.

    What it writes afterwards is dropped: nothing of the session comes back under a new id.
    """
    token = await vault.site.store_session(DATA)
    left = ending(token, await vault.get(token))

    async def act(session: Session) -> None:
        await vault.client.delete(vault.key(token))
        if left is not None:
            await vault.put(token, left)
        session["n"] = 1
        with pytest.raises(SessionGoneError):
            await awaited(session)
        session["n"] = 2

    reply = await vault.site.visit(token, act=act)

    assert (reply.error, reply.status, reply.cookies) == (None, 200, [])
    assert "dropped" in {event.name for event in vault.site.events}
    assert "created" not in {event.name for event in vault.site.events}
    keys = await vault.client.keys(f"{vault.prefix}*")
    records = [key for key in keys if await vault.client.type(key) == b"string"]
    assert records == ([] if left is None else [vault.key(token).encode()])


def sign_in(session: Session) -> None:
    session["user_id"] = "ann"


def sign_out(session: Session) -> None:
    del session["user_id"]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damaged_while_somebody_signs_in(
    damage: Callable[[SessionToken, bytes], bytes],
) -> None:
    """A sign-in goes on under its new id with what it had read; the damaged one is left alone."""
    meanwhile = Meanwhile(damage)

    reply = await meanwhile.visit({"cart": [1]}, sign_in)

    assert (reply.error, reply.status) == (None, 200)
    assert reply.token.id != meanwhile.token.id
    seen = (await meanwhile.site.visit(reply.token)).seen
    assert seen == {"cart": [1], "user_id": "ann"}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("act", [sign_out, Session.clear])
async def test_damaged_while_somebody_signs_out(
    damage: Callable[[SessionToken, bytes], bytes], act: Callable[[Session], None]
) -> None:
    """A sign-out holds: whatever bytes are there, a tombstone ends the id."""
    meanwhile = Meanwhile(damage)

    reply = await meanwhile.visit({"user_id": "ann"}, act)

    assert (reply.error, reply.status) == (None, 200)
    stored = await meanwhile.store.load(meanwhile.token.id)
    assert stored is not None
    assert is_tombstone(stored)
    assert "expires=Thu, 01 Jan 1970" in reply.cookies[0]


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


async def test_a_forged_record_opens() -> None:
    """Without that, every other forgery here would fail for a wrong reason."""
    *_, reply = await read_sealed(plaintext(b"\x81\xa1n\x01", time.time()))

    assert (reply.error, reply.seen, reply.is_new) == (None, {"n": 1}, False)

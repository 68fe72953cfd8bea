"""Records that are damaged, or end, while a request is using them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redis_sessions import MemoryStore, Session, SessionGoneError, SessionToken
from redis_sessions.session.record import is_tombstone, tombstone
from tests.properties.sealed_records import (
    DATA,
    DAY,
    HEADER,
    Vault,
    flipped,
    forge,
    plaintext,
    write,
    write_and_rotate,
)
from tests.support.asgi import Reply
from tests.support.site import Site


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

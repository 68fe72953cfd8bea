"""A site on real Redis, what its keys really hold, and what its handlers do."""

from __future__ import annotations

from hashlib import blake2b
from os import urandom
from typing import Any

import msgspec
from nacl.bindings import crypto_secretbox
from redis.asyncio import Redis

from redis_sessions import Keyring, Session, SessionToken
from tests.support import sealing_key
from tests.support.site import KEYRING, Site, assert_rejected

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


def flipped(stored: bytes, bit: int) -> bytes:
    altered = bytearray(stored)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


def forge(
    token: SessionToken,
    plain: bytes,
    *,
    prefix: str = "session:",
    keyring: Keyring = KEYRING,
    rotated_at: int = 0,
) -> bytes:
    """A valid seal around any plaintext, made as the design says rather than by the library."""
    context = b"\x01" + keyring.primary.id + rotated_at.to_bytes(4, "big")
    salt = blake2b(prefix.encode(), digest_size=16, person=b"rs-prefix").digest()
    nonce = urandom(24)
    key = sealing_key(keyring.primary, context, token.value, salt)
    return context + nonce + crypto_secretbox(plain, nonce, key)


def plaintext(data: bytes, now: float, **fields: Any) -> bytes:
    """A record's plaintext around these encoded data."""
    values: dict[str, Any] = {
        "created_at": int(now),
        "authenticated_at": None,
        "seen_at": int(now),
        "expires_at": int(now) + 3600,
        "idle": 3600,
        "persistent": True,
        "owner": None,
        "binding": None,
        **fields,
    }
    return msgspec.msgpack.encode([*values.values(), msgspec.Raw(data)])

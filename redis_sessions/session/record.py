"""The stored record: a header in clear, and a NaCl secretbox around the session.

    byte 0       format, 0x01
    bytes 1-4    key id
    bytes 5-8    rotated_at: when this token replaced another (else 0), seconds, unsigned
    bytes 9-32   nonce, random
    bytes 33-    secretbox (XSalsa20-Poly1305) of the MessagePack array

Bytes 0-32 are the header, which is also the version of the record. A tombstone is a header alone.

The key of the box depends on the secret key, on bytes 0-8, on the whole token and on the key
prefix. So a record opens under one token and one prefix only, and not if its header was altered.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from os import urandom
from typing import Any, Final, NamedTuple

import msgspec
import msgspec.structs
from nacl.bindings import crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError

from redis_sessions.session.accepted import Origin
from redis_sessions.session.box import open_box, seal_box
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.token import SessionToken
from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = [
    "HEADER_SIZE",
    "TOMBSTONE_TTL",
    "Alias",
    "Descriptor",
    "Record",
    "Reject",
    "Sealer",
    "Stored",
    "is_change",
    "is_record",
    "is_tombstone",
    "key_id",
    "layout",
    "other_tombstone",
    "rotated_at",
    "tombstone",
    "version",
]

FORMAT: Final = b"\x01"
HEADER_SIZE: Final = 33

TOMBSTONE_TTL: Final = 30
"""How many seconds a tombstone lives, and a token that a rotation replaced is recognised."""

TOUCH_AFTER: Final = 300
"""A session is touched after so many seconds, or after a tenth of its idle timeout if shorter."""

_LONG_IDLE: Final = 10 * TOUCH_AFTER

REMEMBERED: Final = 4096
"""How many records that were opened are remembered."""

_NO_KEY: Final = b"\0\0\0\0"


class Reject(StrEnum):
    """Why stored bytes aren't a session for a token."""

    UNKNOWN = "unknown id"
    EXPIRED = "expired"
    BOUND = "bound elsewhere"
    TOMBSTONE = "tombstone"
    TRUNCATED = "truncated"
    FORMAT = "unknown format"
    KEY = "unknown key id"
    SEAL = "authentication failed"
    CONTENT = "undecodable"


class Alias(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Another name by which a session can be ended.

    `text`: the name, a NUL and the value. `entered_at`: when the session was entered in the alias'
    index, in milliseconds on that index's own clock, which may be another than the principal's.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    text: str
    entered_at: int


class Record(msgspec.Struct, array_like=True, gc=False, kw_only=True, frozen=True):
    """What is sealed.

    Times are whole seconds since the epoch, except `authenticated_at`, which is in milliseconds.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    created_at: int
    authenticated_at: int | None
    seen_at: int
    expires_at: int
    idle: int
    persistent: bool
    owner: bytes | None
    binding: bytes | None
    data: msgspec.Raw
    methods: tuple[str, ...] = ()
    """How the principal proved who they are, at `authenticated_at` (RFC 8176)."""
    aliases: tuple[Alias, ...] = ()
    """Other names by which the session can be ended."""
    origin: Origin | None = None
    """Which source its data come from. None: from none."""

    # What comes after `data` has a default, since older records end there. Older servers ignore it,
    # and leave it out when they store the session.

    def with_data(self, data: bytes) -> Record:
        """A copy with other data."""
        return msgspec.structs.replace(self, data=msgspec.Raw(data))

    @property
    def signed_for(self) -> int:
        """`Origin.signed_for`."""
        return 0 if self.origin is None else self.origin.signed_for

    @property
    def proved_at(self) -> int | None:
        """As `authenticated_at`. None if that is when another library's session was accepted."""
        at, origin = self.authenticated_at, self.origin
        return None if origin is not None and origin.at == at else at

    def amended(self, data: bytes | None = None, **fields: Any) -> Record:
        """A copy with other values for these fields."""
        return msgspec.structs.replace(self if data is None else self.with_data(data), **fields)


class Stored(msgspec.Struct, frozen=True, gc=False):
    """What is in the store under one token, sealed and open."""

    token: SessionToken
    record: Record
    sealed: bytes
    data: bytes
    """The record's data, encoded."""
    ends: int
    """When it ends unless it is touched: by its idle timeout or absolutely, whichever is first."""
    touch_at: float
    """From when on it is to be touched."""
    key: bytes
    """The key of its box. What takes its place under the same token has the same one."""

    @property
    def version(self) -> bytes:
        return self.sealed[:HEADER_SIZE]

    @property
    def rotated_at(self) -> int:
        return rotated_at(self.sealed)

    def alone(self) -> Stored:
        """The same, as if it followed no other library's session."""
        return msgspec.structs.replace(self, record=self.record.amended(origin=None))

    def __repr__(self) -> str:
        return f"<Stored {self.token.id}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.token.id)]  # rich would take msgspec's, which shows everything


class Descriptor(msgspec.Struct, array_like=True, gc=False, kw_only=True):
    """What a principal's index holds about one session, sealed, for lists of devices."""

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    created_at: int
    address: str | None
    user_agent: str | None
    methods: tuple[str, ...] = ()
    """As in the record."""
    signed_for: int = 0
    """As `Origin.signed_for`, for who ends the session by its id alone."""


_describe = msgspec.msgpack.Encoder().encode
_described = msgspec.msgpack.Decoder(Descriptor).decode
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


class Sealer:
    """Seals and opens the records of one key prefix."""

    small = 2048
    """A record is remembered if it has at most so many bytes."""

    __slots__ = ("_before", "_derivations", "_keyring", "_primary", "_recent", "_sealing")

    def __init__(self, keyring: Keyring, prefix: str) -> None:
        self._keyring = keyring
        salt = blake2b(prefix.encode(), digest_size=16, person=b"rs-prefix").digest()
        # By a record's first five bytes. A copy costs half as much as a new keyed hash.
        self._derivations = {FORMAT + key.id: key.derivation(salt) for key in keyring.keys}
        self._primary = FORMAT + keyring.primary.id
        self._sealing = self._derivations[self._primary]
        # What was sealed or opened last, by its sealing key: the bytes, and what they contain.
        self._recent: dict[bytes, tuple[bytes, Record, bytes, int, float]] = {}
        self._before = self._recent

    def seal(
        self, token: SessionToken, record: Record, rotated_at: int, data: bytes | None = None
    ) -> Stored:
        """The record as it will be stored: sealed under the primary key, with a new nonce.

        `data`: the record's data, for a caller that has them as bytes.
        """
        context = self._primary + rotated_at.to_bytes(4, "big")
        derivation = self._sealing.copy()
        derivation.update(context + token.value.encode())
        return self._seal(derivation.digest(), context, token, record, data)

    def seal_again(self, at: Stored, record: Record, data: bytes | None = None) -> Stored:
        """Another record in the place of this one, under the same token. `data` as in `seal`."""
        context = at.sealed[:9]
        if context[:5] != self._primary:  # a retired key has sealed it
            return self.seal(at.token, record, at.rotated_at, data)
        return self._seal(at.key, context, at.token, record, data)

    def _seal(
        self, key: bytes, context: bytes, token: SessionToken, record: Record, data: bytes | None
    ) -> Stored:
        nonce = urandom(24)
        sealed = context + nonce + crypto_secretbox(_encode(record), nonce, key)
        return self._opened(key, token, record, sealed, data)

    def open(self, token: SessionToken, sealed: bytes) -> Stored | Reject:
        """What these bytes contain, or why they aren't a session for this token. Never raises."""
        keyed = self._derivations.get(sealed[:5])
        if keyed is None or len(sealed) <= HEADER_SIZE:
            return _misfit(sealed)
        derivation = keyed.copy()
        derivation.update(sealed[:9] + token.value.encode())
        key = derivation.digest()
        known = self._recent.get(key) or self._before.get(key)
        if known is not None and known[0] == sealed:
            # These bytes, not the new ones: the less many waiting requests hold, the faster.
            sealed, record, data, ends, touch_at = known
            return Stored(token, record, sealed, data, ends, touch_at, key)
        try:
            record = _decode(crypto_secretbox_open(sealed[33:], sealed[9:33], key))
        except CryptoError:
            return Reject.SEAL
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Reject.CONTENT
        return self._opened(key, token, record, sealed)

    def _opened(
        self,
        key: bytes,
        token: SessionToken,
        record: Record,
        sealed: bytes,
        data: bytes | None = None,
    ) -> Stored:
        """The result, which is also remembered: the same bytes and key give the same record."""
        if data is None:
            data = bytes(record.data)
        seen, idle = record.seen_at, record.idle
        ends = seen + idle
        if ends > record.expires_at:  # noqa: PLR1730 - calling min() costs twice as much
            ends = record.expires_at
        touch_at = seen + (TOUCH_AFTER if idle > _LONG_IDLE else idle / 10)
        if len(sealed) <= self.small:
            if len(self._recent) >= REMEMBERED // 2:
                self._before, self._recent = self._recent, {}
            # The token isn't remembered, so that nothing here opens a session.
            self._recent[key] = sealed, record, data, ends, touch_at
        return Stored(token, record, sealed, data, ends, touch_at, key)

    def seal_descriptor(self, index: str, id: str, descriptor: Descriptor) -> bytes:
        """Key id, nonce and box. The box opens only for this index and id, and by no token."""
        key = self._keyring.primary
        return seal_box(key, key.descriptor_key(index, id), _describe(descriptor))

    def open_descriptor(self, index: str, id: str, sealed: bytes) -> Descriptor | None:
        """The descriptor that was sealed for this index and id, or None. Never raises."""
        key = self._keyring.get(sealed[:4])
        plain = None if key is None else open_box(key.descriptor_key(index, id), sealed)
        try:
            return None if plain is None else _described(plain)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


def _misfit(stored: bytes) -> Reject:
    if len(stored) <= HEADER_SIZE:
        return Reject.TOMBSTONE if is_tombstone(stored) else Reject.TRUNCATED
    return Reject.KEY if stored[:1] == FORMAT else Reject.FORMAT


def tombstone(rotated_at: int) -> bytes:
    """A header alone, which is stored for 30 seconds in place of a session that ended."""
    return FORMAT + _NO_KEY + rotated_at.to_bytes(4, "big") + urandom(24)


# -- the layout of stored bytes, for other modules: none of them counts bytes itself


def is_tombstone(stored: bytes) -> bool:
    """Whether these bytes are a tombstone, of any format."""
    return len(stored) == HEADER_SIZE


def is_record(stored: bytes | None) -> bool:
    """Whether there are any bytes, and they are a record rather than a tombstone."""
    return stored is not None and len(stored) > HEADER_SIZE


def is_change(new: bytes, old: bytes) -> bool:
    """Whether `new` is a record under the same token as `old`.

    It isn't if `new` is a tombstone or the first record after a rotation. `old` may be a version.
    """
    return len(new) > HEADER_SIZE and new[5:9] == old[5:9]


def other_tombstone(like: bytes) -> bytes:
    """A tombstone that says the same, with another version."""
    return like[:-1] + bytes([(like[-1] + 1) % 256])


def version(stored: bytes) -> bytes:
    """The header, which no other record or tombstone has."""
    return stored[:HEADER_SIZE]


def key_id(stored: bytes) -> bytes:
    """The id of the secret key under which a record is sealed."""
    return stored[1:5]


def rotated_at(stored: bytes) -> int:
    """When the token of this record or tombstone replaced another. 0 if it didn't."""
    return int.from_bytes(stored[5:9], "big")


class Layout(NamedTuple):
    """The parts of stored bytes."""

    format: int
    key_id: bytes
    rotated_at: int
    nonce: bytes
    box: bytes
    """Empty in a tombstone."""


def layout(stored: bytes) -> Layout:
    """The parts of a record or a tombstone."""
    nonce, box = stored[9:HEADER_SIZE], stored[HEADER_SIZE:]
    return Layout(stored[0], key_id(stored), rotated_at(stored), nonce, box)

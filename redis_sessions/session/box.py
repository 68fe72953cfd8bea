"""NaCl boxes for what isn't a record: descriptors, messages, cached values."""

from __future__ import annotations

from hashlib import blake2b
from os import urandom
from typing import Final

from nacl.bindings import crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError

from redis_sessions.session.keyring import Keyring, SecretKey

__all__ = ["Box", "nonce_of", "open_box", "seal_box"]

_NONCE: Final = 4 + 24
_SHORTEST: Final = _NONCE + 16


class Box:
    """Seals bytes for one purpose and one key prefix, under the keys of a keyring.

    For example: `Box(keyring, "session:", b"rs-message").seal("to:alice", b"hello")`. What was
    sealed for one context opens for no other context, purpose or prefix. `purpose` has at most 16
    bytes, and no other part of the library has the same.
    """

    __slots__ = ("_keyring", "_purpose", "_salt")

    def __init__(self, keyring: Keyring, prefix: str, purpose: bytes) -> None:
        self._keyring = keyring
        self._purpose = purpose
        self._salt = blake2b(prefix.encode(), digest_size=16, person=b"rs-prefix").digest()

    def names(self, context: str) -> tuple[str, ...]:
        """What Redis may know a context by, under each key of the ring, the primary's first.

        Each is 32 hexadecimal digits. Nobody can check a guess by one without the secret key.
        """
        return tuple(
            self._derived(key, b"name:" + _bytes(context), 16).hex() for key in self._keyring.keys
        )

    def seal(self, context: str, plain: bytes) -> bytes:
        """4 bytes of key id, 24 of nonce, and the box, which is 16 bytes longer than `plain`."""
        key = self._keyring.primary
        return seal_box(key, self._sealing_key(key, context), plain)

    def open(self, context: str, sealed: bytes) -> bytes | None:
        """What was sealed for this context, or None. It never raises."""
        key = self._keyring.get(sealed[:4])
        return None if key is None else open_box(self._sealing_key(key, context), sealed)

    def _sealing_key(self, key: SecretKey, context: str) -> bytes:
        return self._derived(key, b"seal:" + _bytes(context), 32)

    def _derived(self, key: SecretKey, data: bytes, size: int) -> bytes:
        return key.derived(data, purpose=self._purpose, salt=self._salt, size=size)


def seal_box(key: SecretKey, sealing_key: bytes, plain: bytes) -> bytes:
    """Key id, a new nonce, and the box. `sealing_key` has 32 bytes, and is derived from `key`."""
    nonce = urandom(24)
    return key.id + nonce + crypto_secretbox(plain, nonce, sealing_key)


def open_box(sealing_key: bytes, sealed: bytes) -> bytes | None:
    """What is in the box, or None if this key doesn't open it."""
    if len(sealed) < _SHORTEST:
        return None
    try:
        return crypto_secretbox_open(sealed[_NONCE:], sealed[4:_NONCE], sealing_key)
    except CryptoError:
        return None


def nonce_of(sealed: bytes) -> bytes:
    """What no other box begins with: the key id and the nonce."""
    return sealed[:_NONCE]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

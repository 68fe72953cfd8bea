"""Secret keys, their ids, and all that is derived from them (by BLAKE2b, RFC 7693)."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final, cast

from redis_sessions.errors import ConfigurationError
from redis_sessions.tracebacks import stripped

__all__ = ["Derivation", "Keyring", "Keys", "SecretKey", "generate_key", "keyring_of"]

Derivation = blake2b

KEY_SIZE: Final = 32
MIN_LENGTH: Final = 32

MIN_DIFFERENT: Final = 8
"""How many of a key's characters have to differ. In a random key more of them do."""

_MAKE_ONE: Final = "make one with `redis-sessions key`"


def generate_key() -> str:
    """A new secret key: 32 random bytes in base64url, as `redis-sessions key` prints it."""
    return urlsafe_b64encode(secrets.token_bytes(KEY_SIZE)).decode()


class SecretKey:
    """One secret key, 32 bytes, and its public 4-byte `id` (BLAKE2b-32 of the key).

    It takes what `redis-sessions key` prints (44 characters of base64url), or any other text of
    at least 32 characters, which is hashed. `ConfigurationError` if the text is shorter, or has
    fewer than 8 different characters, since it can't be random then.
    """

    __slots__ = ("_key", "id")

    def __init__(self, secret: str | bytes) -> None:
        self._key = _key_bytes(secret)
        self.id: bytes = blake2b(self._key, digest_size=4, person=b"rs-key-id").digest()

    def derivation(self, salt: bytes) -> Derivation:
        """From this the 32-byte sealing keys of one key prefix are derived.

        Take a copy, and update it with the public context of a record and with its whole token.
        """
        return blake2b(digest_size=32, key=self._key, salt=salt, person=b"redis-sessions")

    def digest(self, text: str, *, purpose: bytes, size: int = 12) -> bytes:
        """A short keyed digest for comparisons. Without the key nobody can check a guess by it."""
        data = text.encode("utf-8", "surrogatepass")
        return blake2b(data, digest_size=size, key=self._key, person=purpose).digest()

    def derived(self, data: bytes, *, purpose: bytes, salt: bytes, size: int) -> bytes:
        """A key or a name, of `size` bytes, for one purpose and one key prefix."""
        return blake2b(data, digest_size=size, key=self._key, salt=salt, person=purpose).digest()

    def owner(self, principal: str) -> bytes:
        """12 bytes that show whether two principals are the same, and nothing else."""
        return self.digest(principal, purpose=b"rs-owner")

    def binding(self, text: str) -> bytes:
        """12 bytes that show whether a request comes from where its session was begun."""
        return self.digest(text, purpose=b"rs-binding")

    def index(self, principal: str) -> str:
        """The name of a principal's index: 32 hexadecimal digits."""
        return self.digest(principal, purpose=b"rs-index", size=16).hex()

    def alias(self, text: str) -> str:
        """The name of an alias' index. It is no principal's, whatever that principal is called."""
        return self.digest(text, purpose=b"rs-alias", size=16).hex()

    def signed(self, principal: str) -> str:
        """The name of the index that says which signed cookies of other libraries are refused."""
        return self.digest(principal, purpose=b"rs-signed", size=16).hex()

    def descriptor_key(self, index: str, id: str) -> bytes:
        """The 32-byte key of the descriptor of one session in one index."""
        return self.digest(f"{index}:{id}", purpose=b"rs-descriptor", size=32)

    def __repr__(self) -> str:
        return f"<SecretKey id={self.id.hex()}>"


class Keyring:
    """The secret keys: `Keyring(primary, *retired)`.

    The primary key seals records. Each record names the key that opens it.

    A new key is rolled out in two deployments, and nobody is signed out: `Keyring(old, new)`, so
    that every process can open what the new key seals, and then `Keyring(new, old)`.

    A key that leaked is dropped: `Keyring(new, dropped=[old])`. The sessions that it sealed don't
    open any more, and their browsers may begin new ones at once.
    """

    __slots__ = ("_by_id", "_dropped", "keys", "primary")

    @stripped
    def __init__(
        self,
        primary: str | bytes,
        *retired: str | bytes,
        dropped: Iterable[str | bytes] = (),
    ) -> None:
        self.keys: tuple[SecretKey, ...] = tuple(
            SecretKey(secret) for secret in (primary, *retired)
        )
        self.primary: SecretKey = self.keys[0]
        self._by_id = {key.id: key for key in self.keys}
        # Only their ids are kept, since nothing is opened, sealed or looked for with these keys.
        given = cast("object", dropped)
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise ConfigurationError("dropped= is no list of keys: write dropped=[old]")
        self._dropped = {SecretKey(secret).id for secret in dropped}
        if not self._dropped.isdisjoint(self._by_id):
            raise ConfigurationError(
                "a secret key that is dropped is in use as well: write Keyring(new, "
                f"dropped=[old]), and {_MAKE_ONE} for the new one"
            )
        if len(self._by_id) < len(self.keys):
            raise ConfigurationError(
                "two secret keys have the same id (the same key twice?): "
                f"write each key once, and {_MAKE_ONE} for a new one"
            )

    def get(self, key_id: bytes) -> SecretKey | None:
        """The key with this id, or None."""
        return self._by_id.get(key_id)

    def is_dropped(self, key_id: bytes) -> bool:
        """Whether the key with this id was dropped because it leaked."""
        return key_id in self._dropped

    def owns(self, owner: bytes, principal: str) -> bool:
        """Whether `owner` is the digest of this principal under any key of the ring."""
        return any(key.owner(principal) == owner for key in self.keys)

    def bound(self, digest: bytes, text: str) -> bool:
        """Whether `digest` is that of this binding under any key of the ring."""
        return any(key.binding(text) == digest for key in self.keys)

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(key.id.hex() for key in self.keys)}>"


Keys = str | bytes | Sequence[str | bytes]
"""One secret key, or `[new, old]`."""


def keyring_of(keys: Keyring | Keys) -> Keyring:
    """The keyring itself, or one with these keys. Raises `ConfigurationError`."""
    if isinstance(keys, Keyring):
        return keys
    given: Any = keys
    several: list[Any] = [*given] if type(given) in (list, tuple) else [given]
    if not several or not all(isinstance(key, (str, bytes)) for key in several):
        raise ConfigurationError(
            f"keyring={type(keys).__name__}: write a secret key, [new, old], or a Keyring; "
            f"{_MAKE_ONE}"
        )
    return Keyring(*several)


def _key_bytes(secret: str | bytes) -> bytes:
    text = secret if isinstance(secret, bytes) else str(secret).encode("utf-8", "surrogatepass")
    if len(text) < MIN_LENGTH:
        raise ConfigurationError(
            f"the secret key has {len(text)} characters; write at least {MIN_LENGTH}: {_MAKE_ONE}"
        )
    if len(set(text)) < MIN_DIFFERENT:
        raise ConfigurationError(
            f"the secret key isn't random (of its characters {len(set(text))} differ, and at least "
            f"{MIN_DIFFERENT} have to): {_MAKE_ONE}"
        )
    if len(text) == 44 and text.endswith(b"="):
        try:
            key = urlsafe_b64decode(text)
        except ValueError:
            key = b""
        # The decoder skips characters that it doesn't know, so the round trip has to be exact.
        if len(key) == KEY_SIZE and urlsafe_b64encode(key) == text:
            return key
    return blake2b(text, digest_size=KEY_SIZE, person=b"rs-key").digest()

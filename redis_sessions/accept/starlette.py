"""The cookie of Starlette's own SessionMiddleware: the data themselves, signed by itsdangerous."""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from time import time
from typing import Any, Final, cast

from starlette.datastructures import Secret

from redis_sessions.errors import ConfigurationError
from redis_sessions.http.mapping import MapOption, mapped_by
from redis_sessions.http.sources import Found
from redis_sessions.session.state import Duration, seconds
from redis_sessions.tracebacks import no_fields, silent_repr, stripped

__all__ = ["StarletteCookie"]

OldKey = str | bytes | Secret

_DAYS: Final = 14 * 24 * 3600
"""Starlette's own default of `max_age`."""


class StarletteCookie:
    """The signed cookie of Starlette's own `SessionMiddleware`. It needs itsdangerous.

        accept=[StarletteCookie(os.environ["OLD_SECRET_KEY"])]

    - `secret_key`: the one that Starlette's middleware had, or several, if it was changed
    - `session_cookie`, `max_age`, `path`, `domain`: as Starlette's middleware had them. An older
      cookie isn't accepted. Write a `max_age` even if Starlette had None
    - `map`: what becomes ours: `{"user_id": "user.id"}`, or a callable. By default all of it
    - `once`: whether the cookie expires when it was accepted

    Raises `ConfigurationError`.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    follow = False

    @stripped
    def __init__(
        self,
        secret_key: OldKey | Sequence[OldKey],
        *,
        session_cookie: str = "session",
        max_age: Duration = _DAYS,
        path: str = "/",
        domain: str | None = None,
        map: MapOption | None = None,  # noqa: A002 - as the other sources have it
        once: bool = True,
    ) -> None:
        try:
            from itsdangerous import BadSignature, SignatureExpired, TimestampSigner
        except ImportError as exc:
            raise ConfigurationError(
                "StarletteCookie needs itsdangerous, as Starlette's own sessions do: "
                "pip install itsdangerous"
            ) from exc
        several = isinstance(secret_key, (list, tuple))
        keys: list[Any] = [*cast("Any", secret_key)] if several else [secret_key]
        texts = [key if isinstance(key, bytes) else str(key or "").encode() for key in keys]
        if not texts or not all(texts):
            raise ConfigurationError(
                "secret_key= of StarletteCookie is empty: anybody could sign such a cookie"
            )
        self._signers = [TimestampSigner(text) for text in texts]
        self._bad, self._expired = BadSignature, SignatureExpired
        self.cookie = session_cookie
        self.path = path
        self.domain = domain
        self.once = once
        self._max_age = seconds(max_age, "max_age")
        self._map = mapped_by(map)

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None:
        return self._map(data)

    async def find(self, value: str) -> Found | str | None:
        """The data in the cookie. It has no id but what is signed, as a digest.

        The signature doesn't belong to it: one signature can be written in several ways.
        """
        try:
            raw = value.encode("ascii")
        except UnicodeEncodeError:
            return "malformed"
        for signer in self._signers:
            try:
                payload, signed = signer.unsign(raw, self._max_age, return_timestamp=True)
            except self._expired:
                return "expired"
            except (self._bad, ValueError, OverflowError):
                continue
            at = signed.timestamp()
            data = _decoded(payload)
            if data is None:
                return "undecodable"
            left = int(at + self._max_age - time())
            digest = blake2b(raw.rpartition(b".")[0], digest_size=20).hexdigest()
            return Found(data, digest, max(1, left), at, self._max_age)
        return "bad signature"

    async def read(self, id: str) -> None:
        """A cookie isn't followed."""

    async def end(self, id: str) -> None:
        """A cookie can't be ended."""

    async def close(self) -> None:
        """It has no connections."""


def _decoded(payload: bytes) -> dict[str, Any] | None:
    try:
        data: Any = json.loads(b64decode(payload))
    except (Base64Error, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", data) if isinstance(data, dict) else None

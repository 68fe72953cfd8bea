"""Laravel's session cookie: the session's id, encrypted with the application's key.

It is Base64 of JSON: `iv` and `value` (AES-256-CBC), and `mac` (HMAC-SHA256 of both, in hex). What
is encrypted is an HMAC-SHA1 of the cookie's name, a `|`, and the id.
"""

from __future__ import annotations

import hmac
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple, cast
from urllib.parse import quote, unquote

from redis_sessions.errors import ConfigurationError

__all__ = ["LaravelCookie", "laravel_cookie"]


class LaravelCookie(NamedTuple):
    """What opens the values of a cookie, and what seals an id for it."""

    open: Callable[[str], str | None]
    """The id in a value. None: this key hasn't sealed it for this cookie."""
    seal: Callable[[str], str]


def laravel_cookie(app_key: str, cookie: str) -> LaravelCookie:
    """The functions for a cookie of this name. `app_key` is Laravel's, for AES-256-CBC.

    Raises `ConfigurationError`.
    """
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        from cryptography.hazmat.primitives.padding import PKCS7
    except ImportError as exc:
        raise ConfigurationError(
            "app_key= needs a package: pip install 'redis-sessions[php]'"
        ) from exc
    key = _key(app_key)
    prefix = hmac.digest(key, f"{cookie}v2".encode(), "sha1").hex() + "|"
    padding = PKCS7(128)

    def mac(iv: str, value: str) -> str:
        return hmac.new(key, (iv + value).encode(), sha256).hexdigest()

    def opened(value: str) -> str | None:
        try:
            found: Any = json.loads(b64decode(unquote(value), validate=True))
            iv, sealed, given = (cast("str", found[name]) for name in ("iv", "value", "mac"))
            if not hmac.compare_digest(mac(iv, sealed), given):
                return None
            cipher = Cipher(algorithms.AES(key), modes.CBC(b64decode(iv))).decryptor()
            unpad = padding.unpadder()
            padded = cipher.update(b64decode(sealed)) + cipher.finalize()
            plain = (unpad.update(padded) + unpad.finalize()).decode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return plain.removeprefix(prefix) if plain.startswith(prefix) else None

    def sealed(id: str) -> str:
        iv, pad = os.urandom(16), padding.padder()
        cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        padded = pad.update((prefix + id).encode()) + pad.finalize()
        first = b64encode(iv).decode()
        value = b64encode(cipher.update(padded) + cipher.finalize()).decode()
        whole = {"iv": first, "value": value, "mac": mac(first, value), "tag": ""}
        return quote(b64encode(json.dumps(whole).encode()).decode(), safe="")

    return LaravelCookie(opened, sealed)


def _key(app_key: str) -> bytes:
    text = app_key.removeprefix("base64:")
    try:
        key = text.encode() if text == app_key else b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigurationError(
            "app_key=…: write Laravel's APP_KEY, which is 'base64:' and 32 bytes in Base64"
        )
    return key

"""The options in a URL's query: which there are, and the type of each. Others are refused."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Final

from redis_sessions.errors import ConfigurationError

__all__ = ["KNOWN", "OURS", "parsed", "tls_arguments"]

_SENTINELS: Final = ("username", "password", "password_file", "password_env")

OURS: Final = (
    *("replicas", "password_file", "password_env", "username_env"),
    *(f"sentinel_{name}" for name in _SENTINELS),
)
"""Options that redis-py doesn't have."""


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(text)
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not isfinite(seconds) or seconds <= 0:
        raise ValueError(text)
    return seconds


def _switch(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    return {**words, "false": False, "no": False, "off": False, "0": False}[text.lower()]


def _word(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError(text)
    return text


def _directory(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError(text)
    return text


def _version(text: str) -> ssl.TLSVersion:
    least, newer = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    return {"771": least, "TLSv1.2": least, "772": newer, "TLSv1.3": newer}[text]


def _requirement(text: str) -> str:
    return {word: word for word in ("none", "optional", "required")}[text]


def _flags(text: str) -> list[ssl.VerifyFlags]:
    return [ssl.VerifyFlags[name] for name in text.split(",")]


_FLAGS: Final = "names of ssl.VerifyFlags, with commas between them"
_TYPES: Final[Mapping[str, tuple[Callable[[str], object], str]]] = {
    "client_cache": (_seconds, "seconds, more than 0"),
    "client_name": (_word, "printable ASCII without spaces"),
    "db": (_number, "a number"),
    "max_connections": (_number, "a number"),
    "password": (str, "a password"),
    "socket_connect_timeout": (_seconds, "seconds, more than 0"),
    "socket_keepalive": (_switch, "true or false"),
    "socket_timeout": (_seconds, "seconds, more than 0"),
    "ssl_ca_certs": (str, "a file"),
    "ssl_ca_data": (str, "certificates"),
    "ssl_ca_path": (_directory, "a directory that is there"),
    "ssl_cert_reqs": (_requirement, "required, optional or none"),
    "ssl_certfile": (str, "a file"),
    "ssl_check_hostname": (_switch, "true or false"),
    "ssl_ciphers": (str, "OpenSSL's names of ciphers"),
    "ssl_exclude_verify_flags": (_flags, _FLAGS),
    "ssl_include_verify_flags": (_flags, _FLAGS),
    "ssl_keyfile": (str, "a file"),
    "ssl_min_version": (_version, "TLSv1.2 (771) or TLSv1.3 (772)"),
    "ssl_password": (str, "a password"),
    "username": (str, "a name"),
}

KNOWN: Final = frozenset((*OURS, *_TYPES))


def parsed(found: Mapping[str, str]) -> dict[str, Any]:
    """redis-py's arguments, from the options. An error shows no value, since it may be a secret."""
    arguments = dict[str, Any]()
    for name, text in found.items():
        if name not in OURS:
            kind, what = _TYPES[name]
            try:
                arguments[name] = kind(text)
            except (KeyError, ValueError):
                raise ConfigurationError(f"the store's URL: {name}= takes {what}") from None
    return arguments


def tls_arguments(given: dict[str, Any], *, tls: bool) -> dict[str, Any]:
    """The arguments of TLS, which are removed from `given`."""
    found = {name: given.pop(name) for name in list(given) if name.startswith("ssl_")}
    if not tls:
        if found:
            raise ConfigurationError(
                f"{min(found)}= is for TLS, which this URL doesn't use: write rediss instead of "
                "redis in the scheme"
            )
        return {}
    found.setdefault("ssl_min_version", ssl.TLSVersion.TLSv1_2)
    for name in ("ssl_keyfile", "ssl_password"):
        if name in found and "ssl_certfile" not in found:
            raise ConfigurationError(f"{name}= is for a certificate: write ssl_certfile=, too")
    return found

"""What TLS must have, and what an owner of the settings may do without."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, cast

from redis.asyncio.connection import RedisSSLContext, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection

from redis_sessions.connect.versions import UNKNOWN_TLS
from redis_sessions.errors import ConfigurationError

__all__ = ["Managed", "own", "shortcomings", "strict"]


class _Context(RedisSSLContext):
    """As redis-py's, but that it asks no terminal, and trusts no more than it is given.

    Redis-py adds `ssl_ca_certs` to the system's authorities.
    """

    __slots__ = UNKNOWN_TLS

    def get(self) -> ssl.SSLContext:
        given: Any = self
        if given.context is None:
            given.context = context = ssl.create_default_context(
                cafile=given.ca_certs, capath=given.ca_path, cadata=given.ca_data
            )
            context.check_hostname = given.check_hostname and given.cert_reqs != ssl.CERT_NONE
            context.verify_mode = given.cert_reqs
            for flag in given.include_verify_flags or ():
                context.verify_flags |= flag
            for flag in given.exclude_verify_flags or ():
                context.verify_flags &= ~flag
            if given.certfile or given.keyfile:
                password = given.password or _no_password
                context.load_cert_chain(given.certfile, given.keyfile, password)
            if given.min_version is not None:
                context.minimum_version = given.min_version
            if given.ciphers is not None:
                context.set_ciphers(given.ciphers)
        return cast("ssl.SSLContext", given.context)


def _no_password() -> str:
    raise ValueError("the key is encrypted: give ssl_password=")


class _Connection(SSLConnection):
    def __init__(self, *, ssl_check_hostname: bool = True, **given: Any) -> None:
        more = {name: given.pop(f"ssl_{name}", None) for name in UNKNOWN_TLS}
        super().__init__(ssl_check_hostname=ssl_check_hostname, **given)
        made, self.ssl_context = self.ssl_context, _Context()
        for name in RedisSSLContext.__slots__:
            setattr(self.ssl_context, name, getattr(made, name))
        for name, value in more.items():
            setattr(self.ssl_context, name, value)


class Managed(SentinelManagedConnection, _Connection):
    """To whatever Sentinels name."""


def own(kind: type[Any]) -> type[Any]:
    """For redis-py's class of connections over TLS, ours; others stay what they are."""
    return _Connection if kind is SSLConnection else kind


def strict(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of redis-py's connections over TLS, 1.2 or later; `ConfigurationError`."""
    lowest = arguments.get("ssl_min_version") or ssl.TLSVersion.TLSv1_2
    if lowest < ssl.TLSVersion.TLSv1_2:
        raise ConfigurationError("ssl_min_version=: write 771 (TLS 1.2) or 772 (TLS 1.3)")
    return {**arguments, "ssl_min_version": lowest}


def shortcomings(context: ssl.SSLContext) -> list[str]:
    """What it lets pass that Python's own wouldn't."""
    usual = ssl.create_default_context()
    found: list[str] = []
    if context.verify_mode is ssl.CERT_NONE:
        found.append("ssl_cert_reqs=none: anybody may pose as the server")
    elif not context.check_hostname:
        found.append(
            "ssl_check_hostname=false: whoever has any certificate of this authority may pose as "
            "the server"
        )
    # Without VERIFY_X509_PARTIAL_CHAIN more is refused, not less.
    lost = usual.verify_flags & ~context.verify_flags & ~ssl.VERIFY_X509_PARTIAL_CHAIN
    if lost:
        found.append("ssl_exclude_verify_flags=: certificates are checked less than usual")
    if _ciphers(context) - _ciphers(usual) or context.security_level < usual.security_level:
        found.append("ssl_ciphers=: ciphers are taken that Python leaves out")
    return found


def _ciphers(context: ssl.SSLContext) -> set[str]:
    return {str(cipher["name"]) for cipher in context.get_ciphers()}

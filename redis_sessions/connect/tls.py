"""Connections over TLS: 1.2 or later, with the certificates that the settings name and no others.

redis-py makes the TLS context from its `ssl_…` options. Two things are other here, and so the
context is made here, from the same options:

1. An authority (`ssl_ca_certs`, `ssl_ca_path`, `ssl_ca_data`) takes the place of the system's.
   redis-py trusts both.
2. An encrypted key without `ssl_password` is an error. redis-py would ask at the terminal.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from redis.asyncio.connection import RedisSSLContext, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection

from redis_sessions.connect.versions import UNKNOWN_TLS
from redis_sessions.errors import ConfigurationError

__all__ = ["ManagedTLS", "context_of", "tls_class", "warnings_about", "with_min_version"]


class _TLS(SSLConnection):
    """redis-py's connection over TLS, with a context of ours.

    `unknown` has those of the options that this version of redis-py doesn't take.
    """

    def __init__(self, *, ssl_check_hostname: bool = True, **given: Any) -> None:
        self.unknown = {name: given.pop(f"ssl_{name}", None) for name in UNKNOWN_TLS}
        super().__init__(ssl_check_hostname=ssl_check_hostname, **given)

    def _connection_arguments(self) -> Mapping[str, Any]:
        context_of(self)  # redis-py makes one only if there is none
        return cast("Mapping[str, Any]", super()._connection_arguments())


class ManagedTLS(SentinelManagedConnection, _TLS):
    """A connection over TLS to the server that the Sentinels name."""


def tls_class(kind: type[Any]) -> type[Any]:
    """Our class for redis-py's `SSLConnection`; any other class as it is."""
    return _TLS if kind is SSLConnection else kind


def context_of(connection: SSLConnection) -> ssl.SSLContext:
    """The TLS context of a connection, which is made when it is first asked for.

    Raises `OSError` or `ValueError` if a file of certificates or a key can't be used.
    """
    given: Any = connection.ssl_context
    if given.context is None:
        if isinstance(connection, _TLS) and connection.unknown:
            slots = cast("tuple[str, ...]", RedisSSLContext.__slots__)
            known: dict[str, Any] = {name: getattr(connection.ssl_context, name) for name in slots}
            given = SimpleNamespace(**known, **connection.unknown)
        context = ssl.create_default_context(
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
        cast("Any", connection.ssl_context).context = context
        return context
    return cast("ssl.SSLContext", given.context)


def _no_password() -> str:
    raise ValueError("the key is encrypted: give ssl_password=")


def with_min_version(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of redis-py's connections over TLS, with TLS 1.2 as the least if there is none.

    `ConfigurationError` if they allow less.
    """
    lowest = arguments.get("ssl_min_version") or ssl.TLSVersion.TLSv1_2
    if lowest < ssl.TLSVersion.TLSv1_2:
        raise ConfigurationError("ssl_min_version=: write 771 (TLS 1.2) or 772 (TLS 1.3)")
    return {**arguments, "ssl_min_version": lowest}


def warnings_about(context: ssl.SSLContext) -> list[str]:
    """What a context allows that Python's default context doesn't, in words for the log."""
    default = ssl.create_default_context()
    found: list[str] = []
    if context.verify_mode is ssl.CERT_NONE:
        found.append("ssl_cert_reqs=none: anybody may pose as the server")
    elif not context.check_hostname:
        found.append(
            "ssl_check_hostname=false: whoever has any certificate of this authority may pose as "
            "the server"
        )
    # A context without VERIFY_X509_PARTIAL_CHAIN refuses more, not less.
    lost = default.verify_flags & ~context.verify_flags & ~ssl.VERIFY_X509_PARTIAL_CHAIN
    if lost:
        found.append("ssl_exclude_verify_flags=: certificates are checked less than usual")
    if _ciphers(context) - _ciphers(default) or context.security_level < default.security_level:
        found.append("ssl_ciphers=: ciphers are taken that Python leaves out")
    return found


def _ciphers(context: ssl.SSLContext) -> set[str]:
    return {str(cipher["name"]) for cipher in context.get_ciphers()}

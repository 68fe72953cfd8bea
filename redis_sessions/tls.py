"""What TLS must have, and what an owner of the settings may do without."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from redis_sessions.errors import ConfigurationError

__all__ = ["shortcomings", "strict"]


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

"""Requests that another origin caused: how they are told, and which origins are trusted.

It is told as Go's `http.CrossOriginProtection` does it. Browsers say in `Sec-Fetch-Site` whether a
page of the same origin caused a request (Fetch Metadata). Without that header, `Origin` (RFC 6454)
is compared with `Host`. A request without both comes from no browser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from starlette.types import Scope

from redis_sessions.errors import ConfigurationError
from redis_sessions.events import Client, Reporter, logger
from redis_sessions.http.headers import RawHeader
from redis_sessions.session.keywords import listed

__all__ = ["BY_DEFAULT", "SAFE", "CrossSite", "Guard", "checked_guard", "is_same_site"]

CrossSite = Literal["anonymous", "refuse", "allow"]

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY"})
"""Methods that change nothing (RFC 9110, 9.2.1; RFC 10008). Browsers don't send TRACE."""

MOST_TOLD: Final = 32
"""How many origins one middleware logs. Clients can make up any number of them."""

_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_OURS: Final = frozenset({b"same-origin", b"none"})
# Python encodes host names as IDNA 2003 has it, and browsers as UTS #46 does. They differ in these.
_DISPUTED: Final = frozenset("\u00df\u1e9e\u03c2\u200c\u200d")
_LONGEST: Final = 100
"""How many characters of a header are shown."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Tells whether another origin caused a request."""

    choice: CrossSite = "anonymous"
    """What such a request gets."""
    trusted: frozenset[str] = frozenset()
    """Origins whose requests are as our own, as `normalised` gives them."""
    told: set[str] = field(default_factory=set[str], compare=False)
    """Whom it has logged."""

    def objection(self, scope: Scope) -> str | None:
        """Why a request with an unsafe method, or a WebSocket, has no session. None: it has one.

        Whatever isn't as browsers write it counts as another origin's.
        """
        sites, origins, hosts = list[bytes](), list[str](), list[str]()
        headers = cast("list[RawHeader]", scope["headers"])
        for name, value in headers:
            if name == b"sec-fetch-site":
                sites.append(value)
            elif name == b"origin":
                origins.append(value.decode("latin-1"))
            elif name == b"host":
                hosts.append(value.decode("latin-1"))
        if _OURS.issuperset(sites) if sites else not origins:
            return None
        origin = normalised(origins[0]) if len(origins) == 1 else None
        if origin in self.trusted:
            return None
        if sites or origin is None:
            return _sentence(origin, origins)
        if len(hosts) == 1 and origin == _as_origin(origin, hosts[0]):
            return None
        return _sentence(origin, origins) + (
            f". It isn't that of the header Host, {', '.join(hosts)[:_LONGEST]!r}: if a proxy has "
            "replaced this header, have it forward the browser's"
        )

    def tell(self, reporter: Reporter, objection: str, by: Client) -> None:
        """Report such a request, and log it the first time that it comes from its origin."""
        reporter.report("rejected", "cross-site", by=by)
        who = objection.partition(". ")[0]  # its first sentence names the origin
        if who not in self.told and len(self.told) < MOST_TOLD:
            self.told.add(who)
            last = len(self.told) == MOST_TOLD
            further = ". Further origins aren't logged" if last else ""
            logger.warning("sessions: %s%s", objection, further)


BY_DEFAULT: Final = Guard()


def _sentence(origin: str | None, origins: list[str]) -> str:
    if origin is not None:
        return (
            f"a request that the origin {origin[:_LONGEST]!r} caused has no session here. If this "
            f"origin is yours, write trusted_origins=[{origin[:_LONGEST]!r}]"
        )
    given = f"its origin is {', '.join(origins)[:_LONGEST]!r}" if origins else "it names no origin"
    if origins == ["null"]:
        given += (
            ", as browsers send it from sandboxed frames, after redirects, and from pages with "
            "Referrer-Policy: no-referrer"
        )
    return f"a request that another origin caused has no session here, and {given}"


def normalised(origin: str) -> str | None:
    """`scheme://host[:port]` in lower case, without a default port. None: it is no origin."""
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    if port is None or int(port) == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}" if int(port) < 65536 else None


def _as_origin(origin: str, host: str) -> str | None:
    """A `Host` header as an origin with this origin's scheme, which proxies may have changed."""
    scheme = origin.partition("://")[0]
    return normalised(f"{scheme}://{host}") if scheme in _DEFAULT_PORTS else None


def checked_guard(choice: Any, trusted: Any) -> Guard:
    """What `cross_site=` and `trusted_origins=` say."""
    if choice not in ("anonymous", "refuse", "allow"):
        raise ConfigurationError(f"cross_site={choice!r}: write 'anonymous', 'refuse' or 'allow'")
    origins = listed(trusted)
    if origins == [None]:
        raise ConfigurationError(
            f"trusted_origins={trusted!r}: write a list, such as ['https://app.example.com']"
        )
    return Guard(choice, frozenset(map(_trusted, origins)))


def _trusted(given: Any) -> str:
    if isinstance(given, str) and _DISPUTED.isdisjoint(given):
        scheme, separator, rest = given.partition("://")
        host, colon, port = rest.partition(":")
        try:
            if not host.startswith("["):  # as an IPv6 address does
                host = host.lower().encode("idna").decode()
        except UnicodeError:
            host = ""
        origin = normalised(scheme + separator + host + colon + port)
        if origin is not None and not origin.startswith(("ws://", "wss://")):
            return origin
    raise ConfigurationError(
        f"trusted_origins={given!r} is no origin: write scheme://host[:port], as browsers send it "
        "in the header Origin, such as 'https://app.example.com'"
    )


def is_same_site(scope: Scope) -> bool:
    """Whether a request has a safe method, or no other site has sent it.

    Another site's unsafe request begins no anonymous session. Its browser may have a session, whose
    `SameSite` cookie didn't come along, and the new cookie would replace it.
    """
    if scope.get("method", "GET") in SAFE:
        return True
    headers = cast("list[RawHeader]", scope["headers"])
    return not any(name == b"sec-fetch-site" and site == b"cross-site" for name, site in headers)

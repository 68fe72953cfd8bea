"""How the token travels: in a cookie or in a header. All of their settings are here."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from copy import copy
from typing import Final, Literal, Protocol, cast

from starlette.types import Scope

from redis_sessions.errors import ConfigurationError
from redis_sessions.http.headers import RawHeader

__all__ = [
    "CookieTransport",
    "HeaderTransport",
    "SameSite",
    "Transport",
    "Transports",
    "is_ambient",
]

SameSite = Literal["lax", "strict", "none"]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)  # RFC 9110, 5.6.2
_PATH: Final = re.compile(r"/[ -:<-~]*", re.ASCII)  # RFC 6265, 4.1.1: no control, no ";"
_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN: Final = re.compile(rf"\.?{_LABEL}(\.{_LABEL})*", re.ASCII)
_HOST: Final = "__Host-"
# RFC 6265bis, 4.1.3, and its successor, draft-ietf-httpbis-layered-cookies. Browsers ignore their
# case. A cookie with __Http- has to be HttpOnly, as all of ours are.
_PREFIXES: Final = ("__Host-Http-", _HOST, "__Http-", "__Secure-")
_HINT: Final = "-fresh"

HINT_SECONDS: Final = 10
"""How long a browser keeps the hint. It counts from the response on, by its own clock."""


class Transport(Protocol):
    """How tokens come with requests and go with responses. Each transport has another `key`."""

    @property
    def key(self) -> tuple[str, str]: ...
    @property
    def vary(self) -> str:
        """The name of the request header that carries the token."""
        ...

    @property
    def secure(self) -> bool:
        """Whether clients refuse to use it over plain http."""
        ...

    @property
    def ambient(self) -> bool:
        """Whether browsers send the token by themselves, whichever page causes the request.

        A transport that doesn't have it is guarded as one for which it is True.
        """
        ...

    @property
    def cross_site(self) -> bool:
        """Whether an unsafe request from another site may begin an anonymous session."""
        ...

    def read(self, scope: Scope) -> list[str]:
        """All that a request brings under this name, also what has not the form of a token."""
        ...

    def send(self, token: str, max_age: int | None) -> RawHeader:
        """The response header for a new token. `max_age`: None is as long as the browser runs."""
        ...

    def expire(self) -> RawHeader:
        """The response header that removes the token."""
        ...


class CookieTransport:
    """A cookie. The arguments and the form of `Set-Cookie` are those of Starlette's sessions.

    Without a `name`, the cookie is called `__Host-session`. Browsers take this name only with
    `https_only`, the path `/` and no domain; with other settings it is called `sid`.
    `ConfigurationError` for a combination that browsers refuse.
    """

    vary = "Cookie"
    ambient = True

    def __init__(
        self,
        name: str | None = None,
        *,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = True,
        domain: str | None = None,
        partitioned: bool = False,
    ) -> None:
        host_bound = https_only and path == "/" and domain is None
        if name is None:
            name = f"{_HOST}session" if host_bound else "sid"
        given = cast("object", same_site)
        site = given.lower() if isinstance(given, str) else ""  # None is no SameSite=None
        if not _fits(_TOKEN, name):
            raise ConfigurationError(
                f"session_cookie={name!r}: write a name of ASCII letters, digits, '-' or '_'"
            )
        prefix = next((p for p in _PREFIXES if name.lower().startswith(p.lower())), "")
        if prefix.startswith(_HOST) and not host_bound:
            raise ConfigurationError(
                f"session_cookie={name!r}: browsers take a {prefix} cookie only with "
                "https_only=True, path='/' and no domain; write those, or another name"
            )
        if prefix and not https_only:
            raise ConfigurationError(
                f"session_cookie={name!r}: browsers take a {prefix} cookie only with "
                "https_only=True; write that, or another name"
            )
        if site not in ("lax", "strict", "none"):
            raise ConfigurationError(f"same_site={same_site!r}: write 'lax', 'strict' or 'none'")
        if site == "none" and not https_only:
            raise ConfigurationError(
                "same_site='none' needs https_only=True: browsers refuse such a cookie otherwise"
            )
        if partitioned and not https_only:
            raise ConfigurationError(
                "partitioned=True needs https_only=True: browsers refuse such a cookie otherwise"
            )
        if not _fits(_PATH, path):
            raise ConfigurationError(f"path={path!r}: write a path such as '/' or '/app'")
        if domain is not None and not _fits(_DOMAIN, domain):
            raise ConfigurationError(f"domain={domain!r}: write a host name such as 'example.com'")
        self.name = name
        self.secure = https_only
        self.cross_site: bool = site == "none"
        self._path = path
        flags = f"httponly; samesite={site}"
        flags += "; secure" if https_only else ""
        flags += f"; domain={domain}" if domain is not None else ""
        flags += "; partitioned" if partitioned else ""
        self._flags = flags
        self._find = re.compile(rf"(?:^|;)[ \t]*{re.escape(name)}=([^;]*)").findall
        self._hint = f"{name}{_HINT}="
        self._find_hint = re.compile(rf"(?:^|;)[ \t]*{re.escape(self._hint)}([^;]*)").findall
        self._hint_flags = f"; path={path}; Max-Age={HINT_SECONDS}; {flags}"

    @property
    def key(self) -> tuple[str, str]:
        return "cookie", self.name

    def read(self, scope: Scope) -> list[str]:
        found: list[str] = []
        headers: list[RawHeader] = scope["headers"]
        for header, value in headers:
            if header == b"cookie":
                for text in self._find(value.decode("latin-1")):
                    found.append(text.strip(" \t"))  # noqa: PERF401 - cheaper than a list of one
        return found

    def send(self, token: str, max_age: int | None) -> RawHeader:
        age = "" if max_age is None else f"Max-Age={max_age}; "
        cookie = f"{self.name}={token}; path={self._path}; {age}{self._flags}"
        return b"set-cookie", cookie.encode()

    def expire(self) -> RawHeader:
        past = "expires=Thu, 01 Jan 1970 00:00:00 GMT"
        cookie = f"{self.name}=null; path={self._path}; {past}; {self._flags}"
        return b"set-cookie", cookie.encode()

    def hinted(self, scope: Scope) -> bool:
        """Whether this browser has changed its session just now, and a replica may lag behind."""
        return self.read_with_hint(scope)[1] is not None

    def read_with_hint(self, scope: Scope) -> tuple[list[str], str | None]:
        """What `read` returns, and the hint's value. None: there is no hint.

        Several hints are one with commas, which is that of no version.
        """
        found: list[str] = []
        hint = None
        headers: list[RawHeader] = scope["headers"]
        for header, value in headers:
            if header == b"cookie":
                cookies = value.decode("latin-1")
                for text in self._find(cookies):
                    found.append(text.strip(" \t"))  # noqa: PERF401 - as in `read`
                if self._hint in cookies:
                    for text in self._find_hint(cookies):
                        hint = text if hint is None else f"{hint},{text}"
        return found, hint

    def hint(self, value: str) -> RawHeader:
        """A short-lived cookie by which the browser says so: longer than a replica may lag."""
        return b"set-cookie", f"{self._hint}{value}{self._hint_flags}".encode()

    def __repr__(self) -> str:
        return f"<CookieTransport {self.name}>"


class HeaderTransport:
    """A header, for clients that aren't browsers.

    Requests carry the token in it. A response has it when the token changes, with an empty value
    when the session has ended.
    """

    secure = False
    ambient = False
    cross_site = False

    def __init__(self, name: str = "X-Session-Token") -> None:
        if not _fits(_TOKEN, name):
            raise ConfigurationError(f"header {name!r}: write a name such as 'X-Session-Token'")
        self.name: str = name
        self.vary: str = name
        self._name = name.lower().encode()

    @property
    def key(self) -> tuple[str, str]:
        return "header", self.name.lower()

    def read(self, scope: Scope) -> list[str]:
        headers: list[RawHeader] = scope["headers"]
        return [value.decode("latin-1") for header, value in headers if header == self._name]

    def send(self, token: str, max_age: int | None) -> RawHeader:
        return self._name, token.encode()

    def expire(self) -> RawHeader:
        return self._name, b""

    def __repr__(self) -> str:
        return f"<HeaderTransport {self.name}>"


def is_ambient(transport: Transport) -> bool:
    """Whether requests of other origins don't get what this transport brings."""
    return getattr(transport, "ambient", True)


class Transports:
    """All transports of one middleware. Tokens are read from each, and one of them answers."""

    def __init__(self, transports: Sequence[Transport]) -> None:
        self.all = tuple(transports)
        self.keys = tuple(transport.key for transport in transports)
        self.vary = ", ".join(dict.fromkeys(transport.vary for transport in transports))

    def read(self, scope: Scope) -> list[str]:
        """The tokens that a request brings. An empty value is none; it only chooses who answers."""
        return [token for transport in self.all for token in transport.read(scope) if token]

    def unguarded(self) -> Transports | None:
        """Those whose token no browser sends by itself, under the names of all. None: all do."""
        others = copy(self)
        others.all = tuple(transport for transport in self.all if not is_ambient(transport))
        return others if others.all else None

    def are_used(self, scope: Scope) -> bool:
        """Whether a request brings anything for one of them. An empty value counts, too."""
        return any(transport.read(scope) for transport in self.all)

    def answering(self, scope: Scope, tokens: Collection[str]) -> Transport:
        """The transport for the response. It is the first one of these:

        1. one that brought one of these tokens
        2. one that brought anything
        3. the first of all
        """
        brought = [(transport, transport.read(scope)) for transport in self.all]
        ours = (transport for transport, texts in brought if not set(texts).isdisjoint(tokens))
        any_ = (transport for transport, texts in brought if texts)
        return next(ours, None) or next(any_, None) or self.all[0]

    def __repr__(self) -> str:
        return repr(self.all[0] if len(self.keys) == 1 else list(self.all))


def _fits(form: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and form.fullmatch(text) is not None

"""The way to a sign-in page and back: who is sent there, and a `next` that stays on this site.

Whatever `next` becomes is a path, with its query and fragment. It begins with one slash, and all
of it is printable ASCII. So it can neither name another host nor end a header.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.routing import NoMatchFound
from starlette.types import Scope

from redis_sessions.errors import ConfigurationError

__all__ = ["checked_page", "not_signed_in", "safe_next"]

_LONGEST: Final = 2000
"""The characters that a `next` has at most. Servers take some 8,000 for all of a request's line."""

_HTML: Final = ("text/html", "application/xhtml+xml")
_VARY: Final = "Accept, HX-Request, Sec-Fetch-Mode"
_SAFE: Final = "/?#%:@!$&()*+,;=~[]"
"""What needs no percent-encoding in a path with query and fragment, beside letters and digits."""

_ABSOLUTE: Final = re.compile(r"https?://([^/?#\\]+)(.*)", re.IGNORECASE)
# Control characters, and the halves of characters, which have no encoding.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Two slashes begin the name of a host. Browsers take a backslash for a slash. They remove "." and
# ".." segments before they ask for a path, and what is left of "/.//host" has two slashes. They
# also remove tabs and line ends, and control characters and spaces at the end.
_LOCAL: Final = re.compile(r"(?!.*[/\\]\.{1,2}(?:[/\\?#]|[\0- ]*$))/(?![/\\\s])[^\t\n\r]*")
_MOST_ENCODINGS: Final = 4
"""How often a path may be percent-encoded, one encoding around the other."""


def safe_next(connection: HTTPConnection, value: object = None, *, default: str = "/") -> str:
    """Where to go after a sign-in: the `next` of this request's query, if it is on this site.

        return RedirectResponse(safe_next(request), status_code=303)

    `value`: this text instead, such as a form's field. An absolute URL counts if its host is the
    one that was asked, and its path is returned. `default` is returned, as it is, for anything
    else: no text, another site (OWASP: Unvalidated Redirects), a path that would lead to one if
    somebody decoded it first, or more than 2,000 characters.
    """
    if value is None:
        value = connection.query_params.get("next")
    return _on_this_site(value, connection.headers) or default


def _on_this_site(url: object, headers: Headers) -> str | None:
    """Path, query and fragment of this URL. None: it is on another site, or isn't a URL."""
    if not isinstance(url, str) or len(url) > _LONGEST or _CONTROL.search(url):
        return None
    path: str = url
    absolute = _ABSOLUTE.fullmatch(path)
    if absolute is not None:
        if absolute[1].lower() != headers.get("host", "").lower():
            return None
        path = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    path = quote(path, safe=_SAFE)
    return path if len(path) <= _LONGEST and _is_local(path) else None


def _is_local(url: str) -> bool:
    """Whether this leads to this site, also for who decodes it first, such as a proxy.

    Only the path is judged. It ends at the first "?" or "#", which nobody encodes or removes. So
    the query may hold any text.
    """
    path = re.split("[?#]", url, maxsplit=1)[0]
    # Decoding leaves all else as it is. So what is wrong in between is still there at the end.
    for _ in range(_MOST_ENCODINGS + 1):
        decoded = unquote(path)
        if decoded == path:
            return url.startswith("/") and _LOCAL.fullmatch(path) is not None
        path = decoded
    return False


def checked_page(page: str, name: str) -> str:
    """A sign-in page: a path of this site, or the name of a route. `name` is who wants to know."""
    given: Any = page
    if not isinstance(given, str):
        wrong = True
    elif page.startswith("/"):
        wrong = not _is_local(page) or not re.fullmatch(r"[!-~]+", page) or "#" in page
    else:
        wrong = re.fullmatch(r"[^/\\\s]+", page) is None
    if wrong:
        raise ConfigurationError(
            f"{name}={page!r}: write a path of this site, such as '/login', or a route's name"
        )
    return page


def not_signed_in(
    connection: HTTPConnection, page: str, challenge: str
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to an HTTP request of somebody who has to sign in.

    There are three cases:

    1. htmx asked. It goes to the page in `HX-Redirect`, also if the status is an error's. It
       wouldn't see a redirect, which the browser follows.
    2. The request takes HTML. It is redirected.
    3. It doesn't. It is refused.
    """
    headers = {"Cache-Control": "no-store", "Vary": _VARY}
    if connection.headers.get("hx-request") == "true":
        headers["HX-Redirect"] = _way_to(page, connection)
    elif _takes_html(connection.headers):
        return 303, {**headers, "Location": _way_to(page, connection)}
    return 401, {**headers, "WWW-Authenticate": challenge}


def _takes_html(headers: Headers) -> bool:
    """Whether a browser goes to a page, or the client names HTML among what it takes."""
    if headers.get("sec-fetch-mode") == "navigate":
        return True
    for item in ",".join(headers.getlist("accept")).lower().split(","):
        kind, *parameters = (part.strip() for part in item.split(";"))
        if kind in _HTML and not any(re.fullmatch(r"q=0(\.0*)?", each) for each in parameters):
            return True
    return False


def _way_to(page: str, connection: HTTPConnection) -> str:
    """The URL of the sign-in page, with `next`."""
    headers, scope = connection.headers, connection.scope
    if not page.startswith("/"):
        try:
            # Unlike url_for(), this doesn't look at `Host`, which may be no host at all.
            page = quote(_root(scope) + scope["router"].url_path_for(page), safe=_SAFE)
        except NoMatchFound:
            raise ConfigurationError(
                f"the sign-in page {page!r}: no route has this name, and a path begins with '/'"
            ) from None
    path = _own_path(scope)
    if path == page.partition("?")[0]:
        raise ConfigurationError(f"the sign-in page {page!r} itself wants a sign-in")
    if headers.get("hx-request") == "true":
        origin: str | None = headers.get("hx-current-url")
    elif scope["method"] in ("GET", "HEAD"):
        query = quote(scope.get("query_string", b""), safe=_SAFE)
        origin = f"{path}?{query}" if query else path
    else:
        origin = headers.get("referer")  # the page with the form
    back = _on_this_site(origin, headers)
    if back is None:
        return page
    return f"{page}{'&' if '?' in page else '?'}next={quote(back, safe='/')}"


def _own_path(scope: Scope) -> str:
    """The path that the browser has asked for, percent-encoded."""
    path, root = scope["path"], _root(scope)
    if root and path != root and not path.startswith(root + "/"):  # some servers leave it out
        path = root + path
    return quote(path, safe="/:@!$&()*+,;=~", errors="replace")


def _root(scope: Scope) -> str:
    """What a proxy, or the server, has before all paths of the application."""
    # In a mounted application `root_path` has the mount's path, too.
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    return root.rstrip("/")

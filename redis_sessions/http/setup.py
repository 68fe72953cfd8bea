"""What all connections of one middleware have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from starlette.requests import HTTPConnection
from starlette.types import Scope

from redis_sessions.errors import ConfigurationError
from redis_sessions.http.accepting import Accepting
from redis_sessions.http.binding import Binding
from redis_sessions.http.cross_site import BY_DEFAULT, Guard
from redis_sessions.http.headers import RawHeader, clear_site_data
from redis_sessions.http.realms import same_records
from redis_sessions.http.transports import CookieTransport, Transport, Transports
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.manager import SessionManager
from redis_sessions.session.session import Session
from redis_sessions.stores.protocols import NearCopies

__all__ = ["COPIES", "STORE", "First", "OnUnavailable", "Setup"]

First = Literal["copies", "store"] | None
"""What is asked for the session of a single token, before anything else is made for its request.

None: nothing, since there is more to do. `Connection.load` does it.
"""
COPIES: Final = "copies"
STORE: Final = "store"

OnUnavailable = (
    Literal["error", "anonymous"] | Callable[[HTTPConnection], Literal["error", "anonymous"]]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The options of one middleware. They are checked."""

    manager: SessionManager
    backend: Backend
    """What the manager works with."""
    transports: Transports
    transport: Transport | None
    """The only transport. None: there are several."""
    read: Callable[[Scope], list[str]]
    """Finds the tokens that a request brings."""
    vary: RawHeader
    """The header `Vary` of responses."""
    on_unavailable: OnUnavailable
    binding: Binding | None
    touch: Callable[[HTTPConnection], bool] | None
    """Says of a request with a token whether it counts as use. None: all count."""
    lazy: bool
    replicas: bool
    """Whether replicas are read."""
    personal: bool
    """Whether events tell who the client is."""
    copies: NearCopies | None
    """The store, if sessions are taken from its near copies."""
    end_sockets: bool
    """Whether open WebSockets and event streams end when their session does."""
    read_with_hint: Callable[[Scope], tuple[list[str], str | None]] | None
    """As `read`, and the browser's hint. None: nobody needs that, or there are several transports.
    """
    clear_site_data: RawHeader | None
    """The header `Clear-Site-Data` of responses that end a session. None: they have none."""
    hints: bool
    """Whether there are any copies, and a cookie says "changed just now" to have older ones passed
    by."""
    cross_site: Guard
    """What `cross_site=` and `trusted_origins=` say."""
    guard: Guard | None
    """The same. None: it doesn't matter which origin caused a request."""
    accepting: Accepting | None
    """What `accept=` says. None: only this library's sessions count."""
    unguarded: Setup | None
    """The same without the transports that are guarded. None: there are no others."""
    first: First
    """What is asked before anything else is made for a request."""

    def choice(self, scope: Scope) -> Literal["error", "anonymous"]:
        """What is done for a request whose session can't be loaded."""
        option = self.on_unavailable
        if not callable(option):
            return option
        choice = option(HTTPConnection(scope))
        if choice in ("error", "anonymous"):
            return choice
        raise ConfigurationError(
            f"on_unavailable returned {choice!r}: return 'error' or 'anonymous'"
        )

    def judge(self, session: Session, tokens: Sequence[str], scope: Scope) -> None:
        """Ask `touch=` whether a request counts as use of its session, and note if it doesn't."""
        if self.touch is None or not tokens:
            return
        counts = cast("object", self.touch(HTTPConnection(scope)))
        if not isinstance(counts, bool):
            raise ConfigurationError(f"touch returned {counts!r}: return True or False")
        if not counts:
            session.untouched()

    def clear_browser(self, transport: Transport, headers: list[RawHeader]) -> None:
        """Have the browser clear what `clear_site_data=` says, since its session has ended."""
        if self.clear_site_data is not None and isinstance(transport, CookieTransport):
            clear_site_data(headers, self.clear_site_data)

    def warn_if_insecure(self, transport: Transport, scope: Scope) -> None:
        """Log it once if a Secure cookie is sent over plain http."""
        if transport.secure and scope.get("scheme") in ("http", "ws"):
            self.backend.reporter.warn_once(
                "insecure",
                "a Secure session cookie was sent over plain http, where most clients don't "
                "return it. In development write https_only=False; in tests "
                'TestClient(app, base_url="https://testserver"); behind a proxy that ends '
                "TLS, have the server trust its forwarded headers",
            )

    def answering(self, scope: Scope, tokens: Sequence[str]) -> Transport:
        """The transport for the response, by the tokens that the request has brought.

        Who brings another library's cookie, and nothing of ours, is answered by a cookie.
        """
        accepting, transports = self.accepting, self.transports
        if accepting is not None and not (tokens or transports.are_used(scope)):
            cookies = (each for each in transports.all if isinstance(each, CookieTransport))
            if accepting.brings(scope):
                return next(cookies)
        return transports.answering(scope, tokens)

    def is_same_as(self, outer: Setup) -> bool:
        """Whether the middleware around this one is the same, so that this one has nothing to do.

        There are three cases:

        1. They have one manager and the same transports. They are the same.
        2. They share neither a transport nor a prefix. They are realms, with a session each.
        3. Anything else is a `ConfigurationError`.
        """
        here, there, prefix = self.transports, outer.transports, self.manager.store.prefix
        shared, same = set(here.keys) & set(there.keys), self.manager is outer.manager
        if same and len(shared) == len(here.keys):
            if self.cross_site not in (outer.cross_site, BY_DEFAULT):
                raise ConfigurationError(
                    "cross_site= and trusted_origins= of the inner one of two SessionMiddlewares "
                    "would do nothing: give them to the outer one"
                )
            accepting, wide = self.accepting, outer.accepting
            if accepting is not None and wide is not None and not accepting.names <= wide.names:
                wide = None
            for option, does, mine, its in (
                ("binding", "bind", self.binding, outer.binding),
                ("clear_site_data", "clear", self.clear_site_data, outer.clear_site_data),
                ("accept", "accept", accepting, wide),
            ):
                if mine is not None and its is None:
                    raise ConfigurationError(
                        f"{option}= of the inner one of two SessionMiddlewares would {does} "
                        "nothing: give it to the outer one"
                    )
            return True
        if shared and not same:
            names = " and ".join(f"the {kind} {name!r}" for kind, name in sorted(shared))
            raise ConfigurationError(
                f"two SessionMiddlewares with different managers share {names}: remove one of "
                "them, give both the same manager=, or give one of them another name and another "
                "prefix="
            )
        if prefix != outer.manager.store.prefix:
            return False
        if not same_records(self.manager, outer.manager):
            raise ConfigurationError(
                f"two SessionMiddlewares, with {there!r} and {here!r}, share the prefix "
                f"{prefix!r}, so that nothing but their stores or secret keys keeps a token of one "
                "from opening as one of the other: give one of them another prefix="
            )
        raise ConfigurationError(
            f"two SessionMiddlewares, with {there!r} and {here!r}, share the prefix {prefix!r}, so "
            "that a token of one opens as one of the other: give one of them another prefix=, or "
            "write one middleware with transport=[CookieTransport(), HeaderTransport()] for one "
            "session that browsers and other clients use"
        )

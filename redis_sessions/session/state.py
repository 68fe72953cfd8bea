"""What the library knows of a session beside its data: status, record, wishes, and request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Literal, NoReturn

import msgspec
from msgspec.structs import replace

from redis_sessions.errors import ConfigurationError, SessionError, afresh
from redis_sessions.session import values
from redis_sessions.session.accepted import Accepted
from redis_sessions.session.context import Peer, RequestContext, Sources
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.origins import NO_OBJECTS, Origins
from redis_sessions.session.record import Stored
from redis_sessions.session.values import EMPTY, Changes
from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = [
    "ANYWHERE",
    "LIVE",
    "LONGEST",
    "NEVER",
    "NOTHING_WANTED",
    "UNAVAILABLE",
    "Bound",
    "Duration",
    "Lifetime",
    "Request",
    "Revoked",
    "State",
    "Status",
    "Wanted",
    "seconds",
]

Duration = int | float | timedelta
"""Seconds, or a timedelta."""

NEVER: Final = float("inf")
"""The time of what is never due."""
LONGEST: Final = 400 * 24 * 3600
"""The longest time that browsers keep a cookie (RFC 6265bis), in seconds."""


class Status(Enum):
    """What has become of a session. Each session has one of these at any time.

    A session that its own request has ended is NEW again.
    """

    NEW = "no token came, or a malformed one: nothing is stored"
    LIVE = "the token opened a session, and it is stored"
    STALE = "the token opens nothing: its session ended a while ago, or there never was one"
    SUPERSEDED = "the token's session ended a moment ago, or another deployment stored it"
    ROTATED = "another token took the place of this one a moment ago"
    GONE = "the session was loaded, and ended or was rotated elsewhere since"
    ENDED = "the session was loaded, and a revocation by its own request ended it"
    UNLOADED = "nobody has loaded the session yet (lazy=True)"
    UNAVAILABLE = "the store is away, so nobody knows"
    FOREIGN = "another origin caused the request, so that it has no session"


# Looking a member up by its name costs ten times as much.
LIVE: Final = Status.LIVE
_ENDED: Final = Status.ENDED
UNAVAILABLE: Final = Status.UNAVAILABLE


class _Anywhere(Enum):
    ANYWHERE = "what a session is bound to isn't checked"


ANYWHERE: Final = _Anywhere.ANYWHERE

Bound = str | Literal[_Anywhere.ANYWHERE] | None
"""What a request is bound to, as a text. None: it is bound to nothing, and opens no bound session.

`ANYWHERE`: the binding isn't checked.
"""


Lifetime = tuple[int, bool | None]
"""What `expire_in()` asks for: seconds, and whether the cookie outlives the browser.

The latter is None if it stays as it is.
"""

Revoked = Mapping[str, float]
"""When a principal's sessions, or an alias', were all ended: a time for each index, by its name.

There is one index for each secret key.
"""

_NO_REVOCATIONS: Final[Mapping[str, Revoked]] = MappingProxyType({})


class Wanted(msgspec.Struct, frozen=True):
    """What the application asked for, besides the data. A commit carries it out."""

    cleared: bool = False
    rotate: bool = False
    authenticated: bool = False
    """By `authenticated()` or `sign_in()`."""
    modified: bool = False
    """By `mark_modified()`."""
    lifetime: Lifetime | None = None
    """By `expire_in()`."""
    methods: tuple[str, ...] = ()
    """How the principal proved who they are. They belong to `authenticated`."""
    whose: str | None = None
    """Who was signed in then. Methods and aliases are nobody else's. None: of who signs in."""
    aliases: tuple[str, ...] | None = None
    """By `sign_in()`: the text of each (`session/aliases.py`). None: those of the record stay."""

    def without(self, met: Wanted) -> Wanted:
        """What is left when `met` was carried out. Other tasks may have asked for more since."""
        if self is met:
            return NOTHING_WANTED
        proved = self.methods, self.aliases
        same = self.whose == met.whose or proved == ((), None)  # which are anybody's
        known = met.authenticated and same and proved == (met.methods, met.aliases)
        again = self.authenticated and not known
        left = Wanted(
            cleared=self.cleared and not met.cleared,
            rotate=self.rotate and not met.rotate,
            authenticated=again,
            modified=self.modified and not met.modified,
            lifetime=None if self.lifetime is met.lifetime else self.lifetime,
            methods=self.methods if again else (),
            whose=self.whose if again else None,
            aliases=self.aliases if again else None,
        )
        return NOTHING_WANTED if left == NOTHING_WANTED else left

    def deferred(self) -> tuple[Wanted, Wanted]:
        """What has to wait for a response, since it needs a new token; and the rest."""
        later = replace(self, cleared=False, modified=False)
        return later, self.without(later)

    def besides(self, other: Wanted) -> Wanted:
        """All that one of the two asks for. Where both ask for the same, this one's counts."""
        proved, named = (self if self.authenticated else other), self.aliases
        return Wanted(
            cleared=self.cleared or other.cleared,
            rotate=self.rotate or other.rotate,
            authenticated=self.authenticated or other.authenticated,
            modified=self.modified or other.modified,
            lifetime=other.lifetime if self.lifetime is None else self.lifetime,
            methods=proved.methods,
            whose=proved.whose,
            aliases=other.aliases if named is None and proved.whose == other.whose else named,
        )


NOTHING_WANTED: Final = Wanted()
"""What most requests want. It is always this one object, so that `is` compares it."""


# Unknown to the collector: the connection is the only circle, and `Connection.leave` opens it.
class Request(msgspec.Struct, eq=False, gc=False):
    """The request that a session serves, or the worker that loaded it."""

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    began: float
    """When it began, in seconds of `Backend.timer`. Only its age can be told from this."""
    bound: Bound = None
    """What it is bound to. A new session is bound to the same."""
    tokens: Sequence[str] = ()
    """The tokens that load an unloaded session. If several came, the one that opened a session."""
    context: RequestContext | None = None
    """The connection. None outside of a request, and after its end."""
    accessed: bool = False
    """Whether the response depends on the session (`Vary`)."""
    answering: bool = False
    """Whether the response's own commit has begun. Nobody can sign in after it."""
    compared: bool = False
    """Whether the session was compared a moment ago with what is stored, and differs."""
    late: bool = False
    """Whether the response has started, so that no token can be sent any more."""
    untouched: bool = False
    """Whether it doesn't count as use of the session, so that it renews no time."""
    revocations: Mapping[str, Revoked] = _NO_REVOCATIONS
    """When this request itself called `revoke_all` or `revoke_by`, by `Index.name`."""


class State(msgspec.Struct, eq=False):
    """What the library knows of one session, beside its data."""

    # One is made for each request. So this and its parts are Structs, which are made in C.

    status: Status
    request: Request
    loaded: Mapping[Any, Any] = NO_OBJECTS
    """The objects that the record held when it was loaded, by key."""
    wanted: Wanted = NOTHING_WANTED
    stored: Stored | None = None
    """The record as it was last loaded or stored here."""
    base: bytes = EMPTY
    """The data of that record, encoded. A change is what differs from them. A value that `get_as`
    has converted is in it as the converted object is stored."""
    principal: str | None = None
    """Who is signed in by the stored data. None is nobody."""
    touch_at: float = NEVER
    """When its time is to be renewed, in seconds since the epoch. `NEVER` if a touch has failed, or
    if this request doesn't count as use."""
    settled: bytes | None = None
    """The data that the last commit dealt with, encoded. They aren't committed once more."""
    tombstone_of: str | None = None
    """The id in the request's token, if a tombstone was found under it."""
    opened: tuple[State, ...] = ()
    """The sessions that were opened by several tokens of one request. None of them counts."""
    turn: bool = False
    """Whether a commit, save or refresh is under way. Others wait until `end_turn`."""
    waiting: list[asyncio.Future[None]] | None = None
    """Who waits for its end."""
    why: SessionError | None = None
    """The error for those who use it, if it isn't loaded."""
    accepted: Accepted | None = None
    """The session of another library whose data are in it, until they are stored."""
    sources: Sources | None = None
    """Those of the middleware that has loaded it. None: it has none, or there was no middleware."""
    shared: bytes | None = None
    """What it shares with another library's, as it is there, encoded. None: it shares nothing."""
    known_origins: Origins | None = None
    """`origins`, if it was asked for already."""

    def __repr__(self) -> str:
        # Without data, since reprs are logged.
        return f"<State {self.status.name}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status.name)]

    @property
    def origins(self) -> Origins:
        """Where the session's objects come from. Most requests don't ask."""
        if self.known_origins is None:
            self.known_origins = Origins(self.loaded)
        return self.known_origins

    @property
    def live(self) -> Stored | None:
        """What is stored, unless the session was cleared here or has ended elsewhere."""
        return None if self.status is not LIVE or self.wanted.cleared else self.stored

    def want(self, **wishes: Any) -> None:
        """Note what the application asks for: fields of `Wanted`."""
        self._set_wanted(replace(self.wanted, **wishes))

    def prove(
        self, whose: str | None, methods: tuple[str, ...], aliases: tuple[str, ...] | None = None
    ) -> None:
        """Note that this principal has proved who they are, and any aliases that were named."""
        if aliases is None and whose == self.wanted.whose:
            aliases = self.wanted.aliases
        self.want(authenticated=True, methods=methods, whose=whose, aliases=aliases)

    def want_again(self, deferred: Wanted) -> None:
        """Note once more what was put aside, besides what tasks asked for meanwhile."""
        self._set_wanted(self.wanted.besides(deferred))

    def _set_wanted(self, wanted: Wanted) -> None:
        self.wanted = NOTHING_WANTED if wanted == NOTHING_WANTED else wanted

    # -- the request

    def leave_untouched(self) -> None:
        """Note that this request doesn't count as use of the session."""
        self.request.untouched, self.touch_at = True, NEVER

    def peer(self) -> Peer:
        """The client. It is empty outside of a request."""
        return Peer() if self.request.context is None else self.request.context.peer()

    def missing(self) -> SessionError:
        """The error for whoever uses it unloaded. It is a new one, so that no traceback grows."""
        return afresh(self.why or SessionError("the session is not loaded"))

    def raise_as_seen(self, error: SessionError) -> NoReturn:
        """Raise the error that the application gets in place of this one."""
        context = self.request.context
        seen = error if context is None else context.as_seen(error)
        raise seen from (error if seen is not error else error.__cause__)

    # -- one commit, save or refresh at a time: a request's tasks may save at once

    async def others(self) -> None:
        """Wait until nobody else writes or reloads this session."""
        while self.turn:
            over = asyncio.get_running_loop().create_future()
            self.waiting = [*(self.waiting or ()), over]
            await over

    def end_turn(self) -> None:
        """Let the next one begin."""
        self.turn = False
        if self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            for over in waiting:
                if not over.done():
                    over.set_result(None)

    # -- changes

    def before(self) -> dict[Any, bytes]:
        """What each key is compared with."""
        return {} if self.wanted.cleared else values.split(self.base)

    def changes(self, encoded: bytes) -> Changes:
        """The top-level keys that this request set or removed."""
        return values.changes(self.before(), values.split(encoded))

    def hold(self, data: Mapping[Any, Any]) -> None:
        """Note that the record holds these objects, unless it is too late for a sign-in."""
        if not (self.request.late or self.request.answering):
            self.origins.hold(data)

    def forget_assigned(self) -> None:
        """Note that what this request assigned is stored now."""
        if self.known_origins is not None:
            self.known_origins.assigned = None

    def is_anothers(self, principal: str | None, keyring: Keyring) -> bool:
        """Whether the stored data belong to another user than this principal.

        1. Another user is signed in. The data are another's.
        2. The session ended elsewhere. They count as another's, since nobody knows why it ended.
        3. Nobody is signed in any more. The data belong to the record's owner.
        4. Nobody ever was. The data are nobody's.
        5. They aren't stored yet, and come from elsewhere. They are whose they were there.
        """
        if principal is None or principal == self.principal:
            return False
        if self.stored is None:  # case 5
            return self.accepted is not None and self.accepted.principal not in (None, principal)
        if self.principal is not None or (self.live is None and not self.wanted.cleared):
            return True
        owner = self.stored.record.owner
        return owner is not None and not keyring.owns(owner, principal)

    # -- what became of it

    def remember(self, stored: Stored) -> None:
        """Note what is in the store from now on."""
        if self.status is not LIVE and self.status is not _ENDED:  # as a task has found since
            self.status = LIVE
        self.stored = stored
        self.base = stored.data
        self.touch_at = NEVER if self.request.untouched else stored.touch_at
        self.settled = None

    def gone(self) -> None:
        """Note that it ended, or was rotated, elsewhere since it was loaded."""
        if self.status is not _ENDED:  # then it was this request that ended it
            self.status = Status.GONE
        self.touch_at = NEVER

    def forget(self) -> None:
        """Note that nothing of it is in the store any more."""
        self.status = Status.NEW
        self.stored = self.principal = self.settled = None
        self.touch_at, self.base = NEVER, EMPTY
        if self.wanted.cleared:
            self.want(cleared=False)


def seconds(duration: Duration, name: str) -> int:
    """A duration in whole seconds. `ConfigurationError` unless it is from 1 second to 400 days."""
    whole: Any = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(whole, bool) or not isinstance(whole, (int, float)) or not 1 <= whole <= LONGEST:
        raise ConfigurationError(
            f"{name}={duration!r}: write seconds or a timedelta, from 1 second to 400 days"
        )
    return int(whole)

"""One request of a process with near copies: what its middleware does around it."""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

from redis_sessions.http.copies import hint, takes_near_copies
from redis_sessions.http.transports import CookieTransport
from redis_sessions.lifecycle.copies import from_near_copy
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Answer, Outcome
from redis_sessions.session.record import Stored
from redis_sessions.session.session import Session, state_of
from redis_sessions.stores import Store
from redis_sessions.stores.protocols import NearCopy
from tests.explorer.actors import Actor, Worker
from tests.explorer.gate import GatedStore
from tests.explorer.links import BOUND, Process

__all__ = ["NearDoor", "NearStore", "Places"]

_TRANSPORT: Final = CookieTransport()
_HINT: Final = _TRANSPORT.hint()[1].partition(b";")[0]


class Places(Protocol):
    """What hears of requests that are served from copies, and of sockets."""

    def hinted(self, browser: str) -> bool:
        """Whether a browser says that it has changed its session."""
        ...

    def served(self, actor: Actor, session: Session, *, own: bool) -> None:
        """A request is served from a copy."""
        ...

    def open_socket(self, actor: Actor, process: Process, worker: Worker, session: Session) -> None:
        """A request goes on as a socket."""
        ...


class NearStore(GatedStore):
    """A gated store whose process keeps copies."""

    client_cache = BOUND

    def __init__(self, process: Process, real: Store, *given: Any, **options: Any) -> None:
        super().__init__(real, *given, **options)
        self._process = process

    def near_copy(self, id: str) -> NearCopy | None:
        return self._process.near_copy(id)


class NearDoor:
    """What the middleware of a process does around one request."""

    def __init__(self, world: Places, process: Process, actor: Actor) -> None:
        self._world = world
        self._process = process
        self._actor = actor
        self.hinted = world.hinted(actor.browser)
        self.before: Stored | None = None
        self.after: Stored | None = None
        self.served = self.touched = False

    def load(self, worker: Worker, text: str) -> Session | None:
        backend, copy = backend_of(worker), self._process.near_copy(text[:20])
        scope = {"headers": [(b"cookie", _HINT)] if self.hinted else []}
        if copy is None or not takes_near_copies(_TRANSPORT, scope, own=copy.own):
            return None
        session = from_near_copy(backend, copy, text, None, cast("Any", None))
        if session is not None:
            self.served = True
            self._world.served(self._actor, session, own=copy.own)
        return session

    def loaded(self, worker: Worker, session: Session) -> None:
        self.before = state_of(session).stored
        if self._actor.kind == "socket" and state_of(session).live is not None:
            self._world.open_socket(self._actor, self._process, worker, session)

    def answered(self, session: Session, answer: Answer) -> None:
        self.after, self.touched = state_of(session).stored, answer.outcome is Outcome.TOUCH

    @property
    def hints(self) -> bool:
        """Whether the answer has the browser say that it has changed its session."""
        headers: list[tuple[bytes, bytes]] = []
        if self.touched or self.after is self.before:
            return False
        hint(self.before, self.after, _TRANSPORT, headers)
        return bool(headers)

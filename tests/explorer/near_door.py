"""One request of a process with near copies: what its middleware does around it."""

from __future__ import annotations

from typing import Any, Final, Protocol

from redis_sessions.http.copies import hint, takes_near_copy
from redis_sessions.http.transports import CookieTransport
from redis_sessions.lifecycle.copies import from_near_copy
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import NOTHING, Answer
from redis_sessions.session.record import Stored
from redis_sessions.session.session import Session, state_of
from redis_sessions.stores import Store
from redis_sessions.stores.protocols import NearCopy
from tests.explorer.actors import Actor, Worker
from tests.explorer.gate import GatedStore
from tests.explorer.links import BOUND, Process

__all__ = ["NearDoor", "NearStore", "Places"]

_TRANSPORT: Final = CookieTransport()


class Places(Protocol):
    """What hears of requests that are served from copies, and of sockets."""

    def hint_of(self, browser: str) -> bytes | None:
        """The cookie by which a browser says that it has changed its session."""
        ...

    def served(self, actor: Actor, session: Session) -> None:
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
        self.hint = world.hint_of(actor.browser)
        self.before: Stored | None = None
        self.after: Stored | None = None
        self.served = False
        self.answer: Answer = NOTHING

    def load(self, worker: Worker, text: str) -> Session | None:
        backend, copy = backend_of(worker), self._process.near_copy(text[:20])
        scope = {"headers": [] if self.hint is None else [(b"cookie", self.hint)]}
        if copy is None or not takes_near_copy(_TRANSPORT, scope, copy):
            return None
        session = from_near_copy(backend, copy, text, None)
        if session is not None:
            self.served = True
            self._world.served(self._actor, session)
        return session

    def loaded(self, worker: Worker, session: Session) -> None:
        self.before = state_of(session).stored
        if self._actor.kind == "socket" and state_of(session).live is not None:
            self._world.open_socket(self._actor, self._process, worker, session)

    def answered(self, session: Session, answer: Answer) -> None:
        self.after, self.answer = state_of(session).stored, answer

    @property
    def hints(self) -> bytes | None:
        """The cookie by which the answer has the browser say that it has changed its session."""
        headers: list[tuple[bytes, bytes]] = []
        if self.after is self.before:
            return None
        hint(self.before, self.after, _TRANSPORT, headers, self.answer)
        return headers[0][1].partition(b";")[0] if headers else None

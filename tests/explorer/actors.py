"""Requests as the middleware drives them: load, the handler's change, commit, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from redis_sessions.errors import SessionConflictError, StoreError
from redis_sessions.events import Event
from redis_sessions.lifecycle.manager import SessionManager, backend_of
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.outcome import Answer
from redis_sessions.session.serving import serving
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import State, Status
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import Store
from tests.explorer.gate import Call
from tests.support.served import served

__all__ = [
    "ADMIN",
    "BY_ALIAS",
    "BY_METHOD",
    "CHANGES",
    "KEYRING",
    "SIGNS_IN",
    "Actor",
    "Door",
    "Fact",
    "Phase",
    "Worker",
    "tag",
    "tagged",
]

KEYRING: Final = Keyring("the explorer's own key: thirty-two characters or more")
ROTATES: Final = frozenset({"rotate", "reA", "keepre"})
SIGNS_IN: Final[Mapping[str, str]] = {
    "inA": "A",
    "inB": "B",
    "reA": "A",
    "clear+inA": "A",
    "resetA": "A",
    "keepre": "A",
    "inS": "A",
    "inT": "A",
    "resetS": "A",
}
BY_METHOD: Final = frozenset({"inB", "reA", "inS", "inT", "resetS"})
"""They call `sign_in()`; the others set the principal's key."""

BY_ALIAS: Final[Mapping[str, str]] = {"by": "S", "byT": "T"}
"""Which alias they revoke."""

ADMIN: Final = frozenset({"revoke", "all", "keep", *BY_ALIAS})
CHANGES: Final[Mapping[str, frozenset[str]]] = {
    "a": frozenset("a"),
    "b": frozenset("b"),
    "a+due": frozenset("a"),
    "empty": frozenset("xab"),
}
"""The keys that a kind of request may change in place."""

DUE: Final = frozenset({"touch", "a+due"})
_TAG: Final = "datum/"


def tag(principal: str | None, who: int) -> str:
    """A value that says who wrote it, and for whom."""
    return f"{_TAG}{principal or '-'}/{who}"


def tagged(data: Mapping[str, Any]) -> dict[str, str]:
    """The tagged values among these data: key → principal and writer."""
    return {k: v[len(_TAG) :] for k, v in data.items() if str(v).startswith(_TAG)}


class Phase(Enum):
    """How far a request is."""

    IDLE = 0
    RUNNING = 1
    SENT = 2
    """Answered with a cookie, which is under way."""
    DONE = 3
    DEAD = 4


@dataclass(frozen=True)
class Fact:
    """Something that ended, and whose end was answered."""

    id: str | None = None
    principal: str | None = None
    """All of whose sessions were ended,"""
    alias: str | None = None
    """or all with this alias,"""
    revoked: float = -1
    keep: str | None = None
    by: int = -1


class Door(Protocol):
    """What a process with near copies does before and after a request."""

    def load(self, worker: Worker, text: str) -> Session | None:
        """The session from a copy, if there is one for this request."""
        ...

    def loaded(self, worker: Worker, session: Session) -> None:
        """The session is there."""
        ...

    def answered(self, session: Session, answer: Answer) -> None:
        """It is committed."""
        ...


class Worker(SessionManager):
    """One process' manager. `due`: whether its request finds a touch due."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        heard: Callable[[Event], None],
        *,
        due: bool = False,
        keyring: Keyring = KEYRING,
    ) -> None:
        super().__init__(store, keyring, clock=clock, on_event=heard)
        backend = backend_of(self)
        really_due = backend.touch_due

        def touch_due(state: State) -> bool:
            return due and really_due(state)

        # A fake clock would do more than this.
        backend.touch_due = touch_due  # type: ignore[method-assign]


@dataclass(eq=False)
class Actor:
    """One request. `kind@browser/status`, such as `out/500`; see `_handle` for the kinds."""

    number: int
    spec: str
    phase: Phase = Phase.IDLE
    token: SessionToken | None = None
    began: float = 0.0
    """When its handler did: whoever signs in proves it later."""
    worker: Worker | None = None
    door: Door | None = None
    task: asyncio.Task[None] | None = None
    pending: list[Call] = field(default_factory=list[Call])
    wake: asyncio.Future[None] | None = None
    # what became of it
    found: Status | None = None
    was: str | None = None
    """The principal that it loaded."""
    events: list[Event] = field(default_factory=list[Event])
    answer: Answer | None = None
    code: int = 0
    drawn: list[str] = field(default_factory=list[str])
    ended: set[str] = field(default_factory=set[str])
    facts: list[Fact] = field(default_factory=list[Fact])
    begun: list[Fact] = field(default_factory=list[Fact])
    """What its `revoke_all` has ended since its first step, answered or not."""
    there: set[str] = field(default_factory=set[str])
    """The entries that were there at that step, and that it has to end."""
    wrote: bool = False
    marked: bool = False
    over_when_loaded: bool = False
    index_lost_when_loaded: bool = False
    replayed: bool = False
    """A reply of its was lost, or it was told that the store is away."""

    def __post_init__(self) -> None:
        what, _, status = self.spec.partition("/")
        self.kind, _, self.browser = what.partition("@")
        self.status = int(status or 200)

    @property
    def due(self) -> bool:
        return self.kind in DUE

    @property
    def cookie(self) -> SessionToken | str | None:
        """What its answer tells the browser: a token, `expire` or nothing."""
        if self.answer is None:
            return None
        return self.answer.token or ("expire" if self.answer.expire else None)

    @property
    def superseded(self) -> bool:
        """Whether its token was, when it was loaded."""
        return self.found in (Status.SUPERSEDED, Status.ROTATED)

    @property
    def dropped(self) -> bool:
        """Whether it reported a change that it didn't store."""
        return any(event.name == "dropped" for event in self.events)

    # -- waiting for the scheduler

    def posted(self, call: Call) -> None:
        """Note an operation that waits to be sent."""
        self.pending.append(call)
        self.stir()

    def stir(self) -> None:
        """Tell the scheduler that there is something new."""
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)

    async def settled(self) -> None:
        """Wait until it waits itself, or is over."""
        self.wake = asyncio.get_running_loop().create_future()
        await self.wake
        self.wake = None

    # -- the request

    async def run(self, first_id: str | None) -> None:
        """Serve it, and tell the scheduler when it is over."""
        try:
            await (self._administer(first_id) if self.kind in ADMIN else self._serve())
        except SessionConflictError:
            self._refused(409)
        except StoreError:
            self._refused(503)
        finally:
            self.stir()

    def _refused(self, code: int) -> None:
        if not self.code:  # else its answer is under way
            self._answered(None, code)

    def _answered(self, answer: Answer | None, code: int) -> None:
        self.answer, self.code = answer, code
        self.phase = Phase.SENT if self.cookie else Phase.DONE

    async def _administer(self, first_id: str | None) -> None:
        worker = self._worker
        if self.kind == "revoke":
            await worker.revoke(first_id or "", principal="A")
            if self.marked:  # otherwise it wasn't theirs
                self.facts.append(Fact(id=first_id))
        elif self.kind in BY_ALIAS:
            await self._revoke_by(BY_ALIAS[self.kind])
        else:
            await self._revoke_all(first_id if self.kind == "keep" else None)
        self._answered(None, self.status)

    async def _revoke_all(self, keep: str | None) -> None:
        await self._worker.revoke_all("A", keep=keep)
        self.facts.append(Fact(principal="A", revoked=self.revoked, keep=keep, by=self.number))

    async def _revoke_by(self, alias: str) -> None:
        await self._worker.revoke_by("sid", alias)
        self.facts.append(Fact(alias=alias, revoked=self.revoked, by=self.number))

    revoked: float = -1
    """When its `revoke_all` was, by the index's clock."""

    async def _serve(self) -> None:
        worker = self._worker
        door, text = self.door, self.token.value if self.token else None
        near = None if door is None or text is None else door.load(worker, text)
        session = await worker.load(text) if near is None else near
        state = state_of(session)
        if door is not None:
            door.loaded(worker, session)
        self.began = backend_of(worker).clock()
        self.found, self.was = state.status, state.principal
        mark = serving.set(served(session))
        try:
            await self._handle(session)
            answer = await worker.commit(session, status=self.status)
        finally:
            serving.reset(mark)
        self._conclude()
        if door is not None:
            door.answered(session, answer)
        self._answered(answer, self.status)
        state.request.late = True  # the middleware commits again when the application has returned
        await worker.commit(session, status=self.status)

    async def _handle(self, session: Session) -> None:
        who, kind = session.principal, self.kind
        mine = tag(who, self.number)
        match kind:
            case "a" | "a+due":
                session["a"] = mine
            case "b":
                session["b"] = mine
            case "rotate" if session.id:
                session.rotate()
            case "inA":
                session["user_id"] = "A"
            case "inB":
                if "x" in session:
                    session["c"] = session["x"]  # if it isn't B's, it stays behind
                session.sign_in("B")
            case "reA":
                session.sign_in("A")
            case "out" if who:
                session.sign_out()
            case "outx" if who:
                for key in list(session):
                    del session[key]
            case "empty" if not who:
                for key in list(session):
                    del session[key]
            case "clear" | "clear+a" | "clear+inA":
                session.clear()
                if kind == "clear+a":
                    session["a"] = tag(None, self.number)
                elif kind == "clear+inA":
                    session["user_id"] = "A"
            case "resetA":
                await self._revoke_all(None)
                session["user_id"] = "A"
            case "inS" | "inT":
                session.sign_in("A", aliases={"sid": kind[-1]})
            case "resetS":
                await self._revoke_by("S")
                session.sign_in("A", aliases={"sid": "S"})
            case "keepre" if who == "A":
                await self._revoke_all(session.id)
                session.authenticated()
            case _:
                pass  # read, touch, socket

    def _conclude(self) -> None:
        """What has ended, now that it is answered."""
        if self.token is None or self.found is not Status.LIVE:
            return
        kind, id = self.kind, self.token.id
        target = SIGNS_IN.get(kind) if self.status < 400 else None
        switches = target not in (None, self.was) and self.was is not None and kind != "keepre"
        if kind.startswith("clear") or switches or (kind in ("out", "outx") and self.was):
            self.facts.append(Fact(id=id))

    @property
    def _worker(self) -> Worker:
        if self.worker is None:
            raise RuntimeError("it hasn't left yet")
        return self.worker

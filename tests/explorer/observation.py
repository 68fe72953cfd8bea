"""One execution as the explorer sees it: what is stored, who has which cookie, what has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

from redis_sessions.session.record import HEADER_SIZE, Sealer
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import Store
from tests.explorer.actors import KEYRING, Actor, Fact, Worker
from tests.explorer.backends import Backend, Seats
from tests.explorer.scenario import INDEXES, Rec, Scenario, Tomb, view

__all__ = ["WHOSE", "Sight", "Wrapper"]

WHOSE: Final = {key: name for name, key in INDEXES.items()}
Wrapper = Callable[[Store], Store]


@dataclass(eq=False)
class Sight:
    """The state of one execution, and its history."""

    backend: Backend
    scenario: Scenario
    wrap: Wrapper = lambda store: store
    """Breaks the store, to see whether that is found."""
    make_worker: Callable[..., Worker] = Worker
    jars: dict[str, SessionToken | None] = field(default_factory=dict[str, "SessionToken | None"])
    """What each browser has; "" is the one that most scenarios are about."""
    firsts: dict[str, SessionToken] = field(default_factory=dict[str, SessionToken])
    """What each browser had in the beginning."""
    tokens: dict[str, list[SessionToken]] = field(default_factory=dict[str, list[SessionToken]])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    raws: dict[str, bytes | None] = field(default_factory=dict[str, "bytes | None"])
    records: dict[str, Rec | Tomb] = field(default_factory=dict[str, "Rec | Tomb"])
    seats: dict[str, Seats] = field(default_factory=dict[str, Seats])
    sent: list[SessionToken | str] = field(default_factory=list["SessionToken | str"])
    used: set[str] = field(default_factory=set[str])
    last: Actor | None = None
    """Whose cookie arrived last in the browser that the scenario is about."""
    ended: list[tuple[str, Actor | None, Rec]] = field(
        default_factory=list[tuple[str, "Actor | None", Rec]]
    )
    marked: list[str] = field(default_factory=list[str])
    """The ids that somebody marked, the first one first."""
    undo_records: dict[str, bytes | None] = field(default_factory=dict[str, "bytes | None"])
    undo_indexes: dict[str, Any] = field(default_factory=dict[str, Any])
    authenticated: dict[str, int] = field(default_factory=dict[str, int])
    """When the handlers that signed in began, whatever the index made of it."""
    aliased: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """When the handlers that gave a session an alias began."""
    named: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Which session was ever entered under which alias."""
    trace: list[str] = field(default_factory=list[str])
    drawing: Actor | None = None
    broken: list[str] = field(default_factory=list[str])
    """What went wrong, as far as only the execution itself sees it."""

    def __post_init__(self) -> None:
        self.actors = [Actor(i + 1, spec) for i, spec in enumerate(self.scenario.specs)]
        self.sealer = Sealer(KEYRING, self.backend.store.prefix)
        self.real = self.wrap(self.backend.store)

    @property
    def jar(self) -> SessionToken | None:
        """What the browser has that the scenario is about."""
        return self.jars.get("")

    @property
    def first(self) -> SessionToken | None:
        """What it had in the beginning."""
        return self.firsts.get("")

    @property
    def index_keys(self) -> list[str]:
        """The indexes that this scenario has."""
        return [INDEXES[name] for name in self.scenario.indexes]

    async def _look(self, id: str) -> None:
        raw = await self.backend.raw(id)
        self.raws[id] = raw
        seen = None if raw is None else self._view(id, raw)
        if seen is None:
            self.records.pop(id, None)
        else:
            self.records[id] = seen

    async def _look_at_index(self, principal: str) -> None:
        self.seats[principal] = await self.backend.seats(INDEXES[principal])

    def _view(self, id: str, raw: bytes) -> Rec | Tomb | None:
        return view(self.sealer, self.tokens.get(id, ()), raw)

    def live(self) -> dict[str, Rec]:
        """The records."""
        return {id: record for id, record in self.records.items() if isinstance(record, Rec)}

    def opened_by(self, token: SessionToken | None) -> Rec | None:
        """What a token opens now."""
        record = self.records.get(token.id) if token else None
        return record if isinstance(record, Rec) and record.token == token else None

    def over(self, id: str, *, begun: bool = False) -> bool:
        """Whether this session's end was answered, whatever is stored.

        `begun`: or whether a `revoke_all` that concerns it has taken its first step.
        """
        record = self.records.get(id)
        return any(self._ends(fact, id, record) for fact in self._facts(begun=begun))

    def asked(self, id: str, record: Rec) -> bool:
        """Whether anybody has begun to end this session, as it was then."""
        return id in self.marked or any(
            self._ends(fact, id, record) for fact in self._facts(begun=True)
        )

    def _facts(self, *, begun: bool) -> Iterator[Fact]:
        for actor in self.actors:
            yield from actor.facts if actor.code else ()
            yield from actor.begun if begun else ()

    def _ends(self, fact: Fact, id: str, record: Rec | Tomb | None) -> bool:
        if fact.id == id:
            return True
        if not isinstance(record, Rec) or fact.by < 0 or id == fact.keep:
            return False
        if id in self.actors[fact.by - 1].drawn:
            return False
        if fact.alias is None:
            since = self.authenticated.get(id, record.auth)
            return record.principal == fact.principal and since <= fact.revoked
        entered = record.aliases.get(fact.alias)
        return entered is not None and self.aliased.get((id, fact.alias), entered) <= fact.revoked

    def name(self, token: SessionToken | str | None) -> str:
        """A token in words."""
        if not isinstance(token, SessionToken):
            return token or "nothing"
        nth = self.tokens.get(token.id, []).index(token) + 1
        return f"{self.labels.get(token.id, '?')}/{nth}"

    def _brief(self, result: Any) -> str:
        if isinstance(result, bytes):
            return "record" if len(result) > HEADER_SIZE else "tombstone"
        while isinstance(result, tuple):  # a `Written`, and what it has
            result = cast("tuple[object, ...]", result)[0]
        return str(result)

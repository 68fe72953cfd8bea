"""One execution: a browser, requests, a store; what may happen next, and what then happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final, cast

from redis_sessions.errors import StoreUnavailableError
from redis_sessions.record import HEADER_SIZE, Sealer
from redis_sessions.stores import Store
from redis_sessions.token import SessionToken
from tests.explorer.actors import ADMIN, KEYRING, Actor, Phase, Worker
from tests.explorer.backends import Backend, Seats
from tests.explorer.gate import Call, GatedStore
from tests.explorer.scenario import (
    DAY,
    EVERYTHING,
    INDEXES,
    LOST_RECORD,
    PRINCIPALS,
    Action,
    Footprint,
    Rec,
    Scenario,
    Tomb,
    first_record,
    view,
)

__all__ = ["World", "Wrapper"]

WHOSE: Final = {key: name for name, key in INDEXES.items()}
TICK: Final = 0.125  # exact in binary: milliseconds stay whole
Wrapper = Callable[[Store], Store]


@dataclass(eq=False)
class World:
    """The state of one execution, and its history."""

    backend: Backend
    scenario: Scenario
    wrap: Wrapper = lambda store: store
    """Breaks the store, to see whether that is found."""
    make_worker: Callable[..., Worker] = Worker
    jar: SessionToken | None = None
    first: SessionToken | None = None
    tokens: dict[str, list[SessionToken]] = field(default_factory=dict[str, list[SessionToken]])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    raws: dict[str, bytes | None] = field(default_factory=dict[str, "bytes | None"])
    records: dict[str, Rec | Tomb] = field(default_factory=dict[str, "Rec | Tomb"])
    seats: dict[str, Seats] = field(default_factory=dict[str, Seats])
    sent: list[SessionToken | str] = field(default_factory=list["SessionToken | str"])
    used: set[str] = field(default_factory=set[str])
    last: Actor | None = None
    """Whose cookie arrived last."""
    ended: list[tuple[str, Actor | None, Rec]] = field(
        default_factory=list[tuple[str, "Actor | None", Rec]]
    )
    undo_records: dict[str, bytes | None] = field(default_factory=dict[str, "bytes | None"])
    undo_indexes: dict[str, Any] = field(default_factory=dict[str, Any])
    authenticated: dict[str, int] = field(default_factory=dict[str, int])
    """When the handlers that signed in began, whatever the index made of it."""
    trace: list[str] = field(default_factory=list[str])
    drawing: Actor | None = None

    def __post_init__(self) -> None:
        self.actors = [Actor(i + 1, spec) for i, spec in enumerate(self.scenario.specs)]
        self.sealer = Sealer(KEYRING, self.backend.store.prefix)
        self.real = self.wrap(self.backend.store)

    # -- the beginning

    async def begin(self) -> None:
        """Store what the scenario starts from; the browser has its cookie."""
        start, now = self.scenario.start, int(self.backend.clock())
        if start != "none":
            token = SessionToken.generate()
            record = first_record(start, now)
            await self.backend.put(token.id, self.sealer.seal(token, record, 0).sealed)
            if start == "A":
                await self.backend.store.touch(
                    INDEXES["A"],
                    token.id,
                    authenticated=(now - 400) * 1000,
                    ttl=13 * DAY * 1000,
                    descriptor=b"",
                )
            self.jar = self.first = token
            self.labels[token.id] = "s"
            self.sent.append(token)
            await self._look(token.id)
        for principal in PRINCIPALS:
            await self._look_at_index(principal)

    def drew(self, token: SessionToken) -> None:
        """Note a token that was made."""
        known = self.tokens.setdefault(token.id, [])
        known.append(token)
        actor = self.drawing
        if actor is not None and token.id not in self.labels:
            actor.drawn.append(token.id)
            self.labels[token.id] = f"{actor.number}.{len(actor.drawn)}"

    # -- what may happen

    def actions(self) -> list[Action]:
        """Everything that may happen next."""
        fault, found = self.scenario.fault, list[Action]()
        may = fault is not None and not self.used
        for actor in self.actors:
            i = actor.number
            if actor.phase is Phase.IDLE:
                found.append(Action("leave", i))
            for n, call in enumerate(actor.pending):
                found.append(Action("op", i, n))
                if may and fault == "lost" and call.writes:
                    found.append(Action("lost", i, n))
                elif may and fault == "away":
                    found.append(Action("away", i, n))
                    if call.writes:
                        found.append(Action("applied, away", i, n))
            if actor.phase is Phase.SENT and not actor.pending:
                found.append(Action("arrive", i))
            if may and fault == "crash" and (actor.pending or actor.phase is Phase.SENT):
                found.append(Action("crash", i))
        if may:
            found.extend(self._failures(fault))
        return found

    def _failures(self, fault: str | None) -> Iterator[Action]:
        if fault in LOST_RECORD:
            yield from (Action(fault, 0, self.labels[id]) for id in self.undo_records)
        elif fault == "failover index":
            yield from (Action(fault, 0, name) for name in self.undo_indexes)
        elif fault == "expire":
            yield from (
                Action(fault, 0, self.labels[id])
                for id, record in self.records.items()
                if isinstance(record, Rec)
            )
        elif fault == "30 s" and not any(a.wrote and a.pending for a in self.actors):
            yield Action(fault)

    def footprint(self, action: Action) -> Footprint:
        """What it depends on, so that the order of independent actions needn't be tried."""
        what, who, nth = action
        mine = {f"request {who}": True}
        if what == "leave":
            admin = self.actors[who - 1].kind in ADMIN
            return mine if admin else {**mine, "jar": False, "time": False}
        if what == "arrive":
            return {**mine, "jar": True}
        if what == "crash":
            return {**mine, "fault": True}
        if what in ("30 s", "failover repeated"):
            return {EVERYTHING: True}
        if what in ("failover record", "expire"):
            return {"fault": True, f"record {nth}": True}
        if what == "failover index":
            return {"fault": True, f"index {nth}": True}
        call = self.actors[who - 1].pending[int(nth)]
        found = {**mine, self._resource(call): call.writes}
        if call.name in ("revoke", "load"):
            found["time"] = call.writes
        if call.writes and not call.on_index:
            found["answered"] = False
        if what != "op":
            found["fault"] = True
        return found

    def after(self, footprint: Footprint, codes: Sequence[int]) -> Footprint:
        """Now that it happened: from an answer on, what it says must hold of the records."""
        told = any(
            a.code and not was and a.facts for a, was in zip(self.actors, codes, strict=True)
        )
        return {**footprint, "answered": True} if told else footprint

    def _resource(self, call: Call) -> str:
        if call.on_index:
            return f"index {WHOSE[call.target]}"
        return f"record {self.labels.get(call.target, call.target)}"

    # -- what happens

    async def perform(self, action: Action) -> None:
        """Let it happen, and wait until every request waits again."""
        what, who, nth = action
        actor = self.actors[who - 1] if who else None
        if actor is None:
            await self._fail(what, str(nth))
            self.trace.append(f"{what} {nth}")
        elif what == "leave":
            await self._leave(actor)
        elif what == "arrive":
            self._arrive(actor)
        elif what == "crash":
            await self._crash(actor)
        else:
            await self._operate(what, actor, int(nth))

    async def _leave(self, actor: Actor) -> None:
        actor.token = None if actor.kind in ADMIN else self.jar
        clock = self.backend.clock
        store = GatedStore(self.real, clock, actor.posted, ages_in_transit=self.scenario.transit)
        actor.worker = self.make_worker(store, clock, actor.events.append, due=actor.due)
        actor.phase, self.drawing = Phase.RUNNING, actor
        first = self.first.id if self.first else None
        actor.task = asyncio.Task(actor.run(first), context=Context())
        self.trace.append(f"{actor.number} [{actor.spec}] leaves with {self.name(actor.token)}")
        await self._settled(actor)

    async def _operate(self, what: str, actor: Actor, nth: int) -> None:
        call, error, result = actor.pending.pop(nth), None, None
        if what != "away":
            await self._remember(call)
            result = await call.send()
            if call.writes:
                await self._applied(call, actor, result)
        actor.wrote = actor.wrote or call.writes
        if call.name == "load" and actor.found is None:
            self._note_loaded(actor)
        target = WHOSE.get(call.target) or self.labels.get(call.target, "?")
        ids = " ".join(self.labels.get(id, "?") for id in call.ids)
        said = "" if what == "op" else f", {what}"
        self.trace.append(
            f"{actor.number} {call.name} {target} {ids} -> {self._brief(result)}{said}"
        )
        if what != "op":
            self.used.add(what)
            actor.replayed = True
        if what == "lost":
            call.retried = True
            actor.pending.insert(nth, call)
            return
        if what != "op":
            error = StoreUnavailableError("didn't answer", reason="timeout")
            call.answer.set_exception(error)
        else:
            call.answer.set_result(result)
        self.drawing = actor
        if actor.task is not None and actor.task.done():
            return  # it had failed by another operation of its own that was under way
        if error is not None or not actor.pending:
            await self._settled(actor)

    async def _settled(self, actor: Actor) -> None:
        before = actor.phase
        await actor.settled()
        self.drawing = None
        if actor.task is not None and actor.task.done() and not actor.task.cancelled():
            actor.task.result()  # raises what it raised
        if before is Phase.RUNNING and actor.phase in (Phase.SENT, Phase.DONE):
            if actor.cookie:
                self.sent.append(actor.cookie if isinstance(actor.cookie, SessionToken) else "")
            self.trace.append(f"{actor.number} answers {actor.code} {self.name(actor.cookie)}")

    async def _remember(self, call: Call) -> None:
        fault = self.scenario.fault
        if not call.writes or self.used:
            return
        if fault in LOST_RECORD and not call.on_index:
            self.undo_records[call.target] = self.raws.get(call.target)
        elif fault == "failover index" and call.on_index:
            self.undo_indexes[WHOSE[call.target]] = await self.backend.snapshot(call.target)

    async def _applied(self, call: Call, actor: Actor, result: Any) -> None:
        if call.name == "revoke":
            actor.revoked = result
            await self.backend.advance(TICK)
        if call.on_index:
            if call.name == "mark":
                actor.marked = True
            await self._look_at_index(WHOSE[call.target])
            return
        before = self.records.get(call.target)
        await self._look(call.target)
        after = self.records.get(call.target)
        if isinstance(after, Rec) and (not isinstance(before, Rec) or before.auth != after.auth):
            began = int(actor.began * 1000 + 0.5)
            self.authenticated[call.target] = max(began, int(actor.revoked) + 1)
        if isinstance(before, Rec) and not isinstance(self.records.get(call.target), Rec):
            self.ended.append((call.target, actor, before))
            actor.ended.add(call.target)

    def _note_loaded(self, actor: Actor) -> None:
        id = actor.token.id if actor.token else ""
        actor.over_when_loaded = self.over(id)
        actor.index_lost_when_loaded = (
            "failover index" in self.used or self.scenario.start == "Alost"
        )

    def _arrive(self, actor: Actor) -> None:
        self.jar = actor.cookie if isinstance(actor.cookie, SessionToken) else None
        self.last, actor.phase = actor, Phase.DONE
        self.trace.append(f"{actor.number}'s answer arrives: {self.name(self.jar)}")

    async def _crash(self, actor: Actor) -> None:
        self.used.add("crash")
        actor.phase = Phase.DEAD
        self.trace.append(f"{actor.number} crashes")
        task = actor.task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        actor.pending.clear()

    async def _fail(self, what: str, nth: str) -> None:
        self.used.add(what)
        if what == "30 s":
            await self.backend.advance(31)
            for id in list(self.raws):
                await self._look(id)
        elif what == "failover index":
            await self.backend.restore(INDEXES[nth], self.undo_indexes[nth])
            await self._look_at_index(nth)
        else:
            id = next(id for id, label in self.labels.items() if label == nth)
            lost = None if what == "expire" else self.undo_records[id]
            await self.backend.put(id, lost)
            if what == "failover repeated":
                await self.backend.reconnect()
            await self._look(id)

    async def stop(self) -> None:
        """Leave nothing behind."""
        for actor in self.actors:
            if actor.task is not None and not actor.task.done():
                actor.task.cancel()
                await asyncio.wait([actor.task])
        await self.backend.wipe(list(self.labels), list(INDEXES.values()))

    # -- looking

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

    def over(self, id: str) -> bool:
        """Whether this session's end was answered, whatever is stored."""
        record = self.records.get(id)
        for actor in self.actors:
            if actor.code == 0:
                continue
            for fact in actor.facts:
                if fact.id == id:
                    return True
                if (
                    fact.principal is not None
                    and isinstance(record, Rec)
                    and record.principal == fact.principal
                    and self.authenticated.get(id, record.auth) <= fact.revoked
                    and id != fact.keep
                    and id not in actor.drawn
                ):
                    return True
        return False

    def name(self, token: SessionToken | str | None) -> str:
        """A token in words."""
        if not isinstance(token, SessionToken):
            return token or "nothing"
        nth = self.tokens.get(token.id, []).index(token) + 1
        return f"{self.labels.get(token.id, '?')}/{nth}"

    def _brief(self, result: Any) -> str:
        if isinstance(result, bytes):
            return "record" if len(result) > HEADER_SIZE else "tombstone"
        if isinstance(result, tuple):
            first: object = cast("tuple[object, ...]", result)[0]
            return str(first)
        return str(result)

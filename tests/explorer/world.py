"""One execution: a browser, requests, a store; what may happen next, and what then happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any, Final

from redis_sessions.errors import StoreUnavailableError
from redis_sessions.session.token import SessionToken
from tests.explorer.actors import ADMIN, Actor, Fact, Phase
from tests.explorer.gate import Call, GatedStore
from tests.explorer.observation import WHOSE, Sight
from tests.explorer.scenario import (
    ALIASES,
    BEHIND,
    DAY,
    EVERYTHING,
    INDEXES,
    LOST_RECORD,
    SIGNED_IN,
    Action,
    Footprint,
    Rec,
    browsers_of,
    first_aliases,
    first_record,
)

__all__ = ["TICK", "World"]

TICK: Final = 0.125  # exact in binary: milliseconds stay whole
UNANSWERED: Final = {"away", "applied, away"}


@dataclass(eq=False)
class World(Sight):
    """One execution, of which each step is chosen."""

    # -- the beginning

    async def begin(self) -> None:
        """Store what the scenario starts from; the browser has its cookie."""
        start, now = self.scenario.start, int(self.backend.clock())
        for browser in browsers_of(start):
            token = SessionToken.generate()
            aliases = first_aliases(start, browser)
            record = first_record(start, now, aliases)
            await self.backend.put(token.id, self.sealer.seal(token, record, 0).sealed)
            self.named.update((token.id, name) for name in aliases)
            for name in ("A", *aliases) if start in SIGNED_IN else ():
                await self.backend.store.touch(
                    INDEXES[name],
                    token.id,
                    authenticated=(now - 400) * 1000,
                    ttl=13 * DAY * 1000,
                    descriptor=b"",
                )
            self.jars[browser] = self.firsts[browser] = token
            self.labels[token.id] = f"s{browser}"
            self.sent.append(token)
            await self._look(token.id)
        for name in self.scenario.indexes:
            await self._look_at_index(name)

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
        fault, found = self._next_fault, list[Action]()
        may = fault is not None
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

    @property
    def _next_fault(self) -> str | None:
        left = [name for name in self.scenario.faults if name not in self.used]
        return None if self.used & UNANSWERED or not left else left[0]

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
        elif fault == "behind":
            yield Action("behind")
        elif fault == "30 s" and not any(a.wrote and a.pending for a in self.actors):
            yield Action("30 s")

    def footprint(self, action: Action) -> Footprint:
        """What it depends on, so that the order of independent actions needn't be tried."""
        what, who, nth = action
        mine = {f"request {who}": True}
        if what == "leave":
            actor = self.actors[who - 1]
            jar = f"jar {actor.browser}"
            return mine if actor.kind in ADMIN else {**mine, jar: False, "time": False}
        if what == "arrive":
            return {**mine, f"jar {self.actors[who - 1].browser}": True}
        if what == "crash":
            return {**mine, "fault": True}
        if what in ("30 s", "failover repeated", "behind"):
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
        actor.token = None if actor.kind in ADMIN else self.jars.get(actor.browser)
        clock = self.backend.clock
        store = self._gate(actor)
        actor.worker = self.make_worker(store, clock, actor.events.append, due=actor.due)
        actor.phase, self.drawing = Phase.RUNNING, actor
        first = self.firsts.get(actor.browser)
        actor.task = asyncio.Task(actor.run(first.id if first else None), context=Context())
        self.trace.append(f"{actor.number} [{actor.spec}] leaves with {self.name(actor.token)}")
        await self._settled(actor)

    def _gate(self, actor: Actor) -> GatedStore:
        """The store as this request sees it."""
        clock, transit = self.backend.clock, self.scenario.transit
        return GatedStore(self.real, clock, actor.posted, ages_in_transit=transit)

    async def _carry_out(self, what: str, call: Call, actor: Actor) -> Any:
        """What becomes of an operation on the server."""
        result = None
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
        return result

    async def _operate(self, what: str, actor: Actor, nth: int) -> None:
        call, error = actor.pending.pop(nth), None
        result = await self._carry_out(what, call, actor)
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
        fault = self._next_fault
        if not call.writes:
            return
        if fault in LOST_RECORD and not call.on_index:
            self.undo_records[call.target] = self.raws.get(call.target)
        elif fault == "failover index" and call.on_index:
            self.undo_indexes[WHOSE[call.target]] = await self.backend.snapshot(call.target)

    async def _applied(self, call: Call, actor: Actor, result: Any) -> None:
        if call.name == "revoke":
            # What was there by the explorer's own clock is over, whatever the index's says.
            actor.revoked = max(result.result, self.backend.clock() * 1000)
            keep = call.ids[0] if call.ids else None
            whose, revoked = WHOSE[call.target], actor.revoked
            fact = Fact(principal=whose, revoked=revoked, keep=keep, by=actor.number)
            aliased = replace(fact, principal=None, alias=whose)
            actor.begun.append(aliased if whose in ALIASES else fact)
            entries, live = self.seats[whose].live, self.live()
            there = {id for id, at in entries.items() if id in live and at <= revoked}
            actor.there = actor.there or there - {keep}
            await self.backend.advance(TICK)
        if call.on_index:
            if call.name == "mark":
                actor.marked = True
                self.marked += call.ids
            elif call.name in ("enter", "touch"):
                self.named.update((id, WHOSE[call.target]) for id in call.ids)
            await self._look_at_index(WHOSE[call.target])
            return
        before = self.records.get(call.target)
        await self._look(call.target)
        after = self.records.get(call.target)
        if isinstance(after, Rec) and (not isinstance(before, Rec) or before.auth != after.auth):
            began = int(actor.began * 1000 + 0.5)
            self.authenticated[call.target] = max(began, int(actor.revoked) + 1)
        if isinstance(after, Rec):
            began = max(int(actor.began * 1000 + 0.5), int(actor.revoked) + 1)
            for name, at in after.aliases.items():
                if not isinstance(before, Rec) or before.aliases.get(name) != at:
                    self.aliased[call.target, name] = began
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
        token = actor.cookie if isinstance(actor.cookie, SessionToken) else None
        self.jars[actor.browser], actor.phase = token, Phase.DONE
        self.last = self.last if actor.browser else actor
        self.trace.append(f"{actor.number}'s answer arrives: {self.name(token)}")

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
        elif what == "behind":
            await self.backend.fall_behind(BEHIND)
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

    async def conclude(self) -> None:
        """Nothing more happens by itself; look at what only shows then."""

    async def stop(self) -> None:
        """Leave nothing behind."""
        for actor in self.actors:
            if actor.task is not None and not actor.task.done():
                actor.task.cancel()
                await asyncio.wait([actor.task])
        await self.backend.wipe(list(self.labels), self.index_keys)

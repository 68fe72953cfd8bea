"""Executions in which processes keep near copies, and have sockets that watch their sessions.

A process hears what the server sends over its link at any moment after it was sent, in order. How
long a copy may be old passes as one step; a link may end, fall silent, or lead to a replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from redis_sessions.http.transports import HINT_SECONDS
from redis_sessions.session.record import version
from redis_sessions.stores import Commit
from tests.explorer.actors import Actor, Phase
from tests.explorer.gate import Call, GatedStore
from tests.explorer.links import BOUND, Link, Process
from tests.explorer.near_door import NearDoor, NearStore
from tests.explorer.near_sight import NearSight
from tests.explorer.scenario import EVERYTHING, LOST_RECORD, Action, Footprint
from tests.explorer.world import TICK

__all__ = ["LINK_FAULTS", "NearWorld"]

FIRST: Final = "first"
"""A browser that has the first token, and keeps it whatever the other one is told."""
LINK_FAULTS: Final = ("link ends", "link silent", "demoted")


class NearWorld(NearSight):
    """One execution over processes with near copies."""

    rereads = rereads_repeated = True
    """Whether the commit script reads what it has set, or what was there already."""

    # -- the beginning

    async def begin(self) -> None:
        await super().begin()
        first = self.first
        if first is not None:
            self.jars[FIRST] = self.firsts[FIRST] = first
        for process in self.processes:
            process.reads_by(self.backend.store.load)
            for id in list(self.labels) if self.scenario.warm else ():
                load, answer = partial(self.backend.store.load, id), self.time.create_future()
                await self._read(process, Call("load", id, load, answer))
                process.hear(process.links[0])

    # -- what may happen

    def actions(self) -> list[Action]:
        found = [action for action in super().actions() if self._may(action)]
        for process in self.processes:
            p = process.number
            shows = self._shows(process)
            if process.may_send():
                found.extend(Action("read", 0, f"{p}/{n}") for n in range(len(process.pending)))
                if process.beats and shows:
                    found.append(Action("beat", 0, str(p)))
            for link in process.links:
                if link.stream and not link.dead and (shows or link.owes_replies):
                    call = link.stream[0].call
                    who = self.calls[call].number if call in self.calls else 0
                    found.append(Action("hear", who, f"{p}/{link.number}"))
                if link is process.link and link.usable and (link.dead or link.demoted):
                    found.append(Action("finds", 0, str(p)))
        if self.bounds_left and any(self._shows(process) for process in self.processes):
            found.append(Action("bound"))
        return found

    def _shows(self, process: Process) -> bool:
        """Whether anything would show what its copies are, or its watched keys."""
        idle = any(a.phase is Phase.IDLE and self.process_of(a) is process for a in self.actors)
        return idle or bool(process.watching)

    def _at_once(self, process: Process, call: Call, link: Link) -> bool:
        """Whether it makes no difference when a reply comes: it comes at once."""
        if link.stream or self._next_fault is not None or self.scenario.waits:
            return False
        return call.writes or not self._shows(process)

    def _may(self, action: Action) -> bool:
        if action.what != "op":
            return True
        call = self.actors[action.who - 1].pending[int(action.nth)]
        return call.on_index or self.process_of(self.actors[action.who - 1]).may_send(call)

    def _failures(self, fault: str | None) -> Iterator[Action]:
        if fault in ("link ends", "link silent"):
            there = [p for p in self.processes if p.link is not None and p.link.tracks]
            yield from (Action(fault, 0, str(process.number)) for process in there)
        elif fault == "demoted":
            yield Action(fault)
        else:
            yield from super()._failures(fault)

    def footprint(self, action: Action) -> Footprint:
        what, who, nth = action
        process = (
            self.processes[int(str(nth).partition("/")[0])] if self._of_process(what) else None
        )
        mine = {f"request {who}": True} if who else {}
        if what == "leave":
            return {**super().footprint(action), **self._in(who, False), "answered": False}
        if process is not None and what == "hear":
            return {**mine, f"link {process.number}": True, "time": False, "answered": False}
        if process is not None and what == "read":
            call = process.pending[int(str(nth).partition("/")[2])]
            return {f"link {process.number}": True, self._resource(call): False}
        if process is not None and what == "beat":
            return {f"link {process.number}": True}
        if what in ("finds", "bound", *LINK_FAULTS, *LOST_RECORD):
            return {EVERYTHING: True}
        found = dict(super().footprint(action))
        if what == "op":
            call = self.actors[who - 1].pending[int(nth)]
            if not call.on_index:
                found = {"time": False, "answered": False, **found, **self._in(who, True)}
                readers = self.server.readers(call.target) if call.writes else ()
                found |= {f"link {link.process.number}": True for link in readers}
        return found

    @staticmethod
    def _of_process(what: str) -> bool:
        return what in ("hear", "read", "beat", "finds")

    def _in(self, who: int, writes: bool) -> Footprint:
        return {f"link {self.process_of(self.actors[who - 1]).number}": writes}

    def after(self, footprint: Footprint, codes: Sequence[int]) -> Footprint:
        new = [a for a, code in zip(self.actors, codes, strict=True) if a.code and not code]
        hints = {f"jar {actor.browser}": True for actor in new}
        told = {"answered": True} if any(a.token != a.cookie for a in new if a.cookie) else {}
        return {**super().after(footprint, codes), **hints, **told}

    # -- what happens

    async def perform(self, action: Action) -> None:
        what, _, nth = action
        self.time.moments += 1
        codes = [actor.code for actor in self.actors]
        if what == "hear":
            await self._hear(str(nth))
        elif what == "read":
            p, n = map(int, str(nth).split("/"))
            await self._read(self.processes[p], self.processes[p].pending.pop(n))
        elif what == "beat":
            self.processes[int(nth)].beat()
            self.trace.append(f"P{nth} sends a heartbeat")
        elif what == "finds":
            self._find_out(self.processes[int(nth)])
        elif what == "bound":
            self.bounds_left -= 1
            await self._pass()
            self.trace.append("the BOUND passes")
        else:
            await super().perform(action)
        self._send_again()
        await self._run_timers()
        for actor, code in zip(self.actors, codes, strict=True):
            if actor.code and not code:
                self.note_answer(actor)
            if actor.phase is Phase.DONE and actor.number not in self.arrived:
                self.arrived.add(actor.number)
                door = self.doors.get(actor.number)
                if door is not None and (cookie := door.hints) is not None:
                    self.hints[actor.browser] = self.backend.clock() + HINT_SECONDS, cookie

    async def _pass(self) -> None:
        for seconds in (BOUND / 3, BOUND / 3, BOUND / 3, TICK):
            await self.backend.advance(seconds)
            await self._run_timers()

    async def _run_timers(self) -> None:
        while self.time.run_due():
            await self._turn()

    async def _turn(self) -> None:
        """Let what was scheduled run."""
        for _ in range(3):
            await self.time.turn()

    # -- requests

    def _gate(self, actor: Actor) -> GatedStore:
        process = self.process_of(actor)
        return NearStore(process, self.real, self.backend.clock, actor.posted)

    async def _leave(self, actor: Actor) -> None:
        actor.door = self.doors[actor.number] = NearDoor(self, self.process_of(actor), actor)
        await super()._leave(actor)
        if self.doors[actor.number].served:
            self._note_loaded(actor)

    async def _operate(self, what: str, actor: Actor, nth: int) -> None:
        call = actor.pending[nth]
        if call.on_index:
            await super()._operate(what, actor, nth)
            return
        actor.pending.pop(nth)
        process, before = self.process_of(actor), self.raws.get(call.target)
        link, message = process.leaves(call)
        message.result = await self._carry_out(what, call, actor)
        self.calls[call] = actor
        at_once = self._at_once(process, call, link)
        link.stream.append(message)
        self._on_server(link, call, message.result, before)
        if at_once:
            await self._hear(f"{process.number}/{link.number}")

    async def _read(self, process: Process, call: Call) -> None:
        """A read of a watched key is carried out."""
        link, message = process.leaves(call)
        message.result = await call.send()
        link.stream.append(message)
        self._on_server(link, call, message.result, None)
        self.trace.append(f"P{process.number} reads {self.labels.get(call.target)} again")

    def _on_server(self, link: Link, call: Call, result: Any, before: bytes | None) -> None:
        """Whom the server tells of it. Any operation on a record reads its key first."""
        id = call.target
        self.server.read(id, link)
        if not call.writes:
            return
        stored = result.result is Commit.STORED
        value = call.value or b""
        repeated = before is not None and version(before) == version(value)
        if stored or call.name == "end":  # each end writes, if only a TTL
            rereads = self.rereads_repeated if repeated else self.rereads
            self.server.changed(id, link, rereads=rereads and call.name != "end")

    async def _hear(self, nth: str) -> None:
        p, number = map(int, nth.split("/"))
        process = self.processes[p]
        link = next(link for link in process.links if link.number == number)
        message = process.hear(link)
        if message.notice is not None:
            self.trace.append(f"P{p} hears that {self.labels.get(message.notice)} has changed")
            return
        call = message.call
        actor = None if call is None else self.calls.pop(call, None)
        what = "a heartbeat's answer" if call is None else f"the reply to {call.name}"
        self.trace.append(f"P{p} hears {what}{f' of {actor.number}' if actor else ''}")
        if call is None:
            return
        self.drawing = actor
        if not call.answer.done():
            call.answer.set_result(message.result)
        if actor is None:
            await self._turn()
        elif actor.task is not None and not actor.task.done() and not self._waits(actor):
            await self._settled(actor)

    def _waits(self, actor: Actor) -> bool:
        return bool(actor.pending) or actor in self.calls.values()

    def _send_again(self) -> None:
        """What was under way on links that were lost waits to be sent once more."""
        for process in self.processes:
            messages, process.retried = process.retried, []
            for call in (message.call for message in messages if message.call is not None):
                actor = self.calls.pop(call, None)
                if actor is None:
                    process.pending.append(call)
                elif actor.phase is not Phase.DEAD:
                    call.retried = actor.replayed = True
                    actor.pending.append(call)
                    self.used.add("lost")

    # -- links

    def _find_out(self, process: Process) -> None:
        link = process.link
        assert link is not None
        if link.dead:
            link.abandon(ConnectionError("it was dead"))
        else:
            link.retire()  # as the dialer does with all links, if one is refused a write
        self.trace.append(f"P{process.number} finds out about its link")

    async def _fail(self, what: str, nth: str) -> None:
        if what not in LINK_FAULTS:
            await super()._fail(what, nth)
            if what in LOST_RECORD:
                for process in self.processes:
                    self._silence(process)
            return
        self.used.add(what)
        if what == "demoted":
            for link in (process.link for process in self.processes):
                if link is not None:
                    link.demoted = True
                    self.server.forget(link)
            return
        process = self.processes[int(nth)]
        if what == "link silent":
            self._silence(process)
        elif process.link is not None:
            process.link.abandon(ConnectionError("the server closed the connection"))

    def _silence(self, process: Process) -> None:
        """Nothing passes over its link any more, and it doesn't know."""
        if process.link is not None:
            process.link.dead = True
            self.server.forget(process.link)

    # -- the end

    async def conclude(self) -> None:
        """Time passes, and everybody hears everything: then copies and sockets are up to date."""
        for _ in range(3):
            await self._pass()
            for process in self.processes:
                while process.beats or process.pending or any(k.stream for k in process.links):
                    await self._flush(process)
                    await self._run_timers()
        self.compare()

    async def _flush(self, process: Process) -> None:
        link = process.link
        if link is not None and link.usable and (link.dead or link.demoted):
            self._find_out(process)
            self._send_again()
        while process.pending:
            await self._read(process, process.pending.pop())
        if process.beats:
            process.beat()
        for link in process.links:
            while link.stream and not link.lost:
                await self._hear(f"{process.number}/{link.number}")

"""Executions in which processes keep near copies, and have sockets that watch their sessions.

A process hears what the server sends over its link at any moment after it was sent, in order. How
long a copy may be old passes as one step; a link may end, fall silent, or lead to a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Final, cast

from redis_sessions.http.copies import hint, load_near
from redis_sessions.http.setup import Setup
from redis_sessions.http.transports import HINT_SECONDS, CookieTransport
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.watching import Watch
from redis_sessions.session.record import Stored, version
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import Commit, Store
from redis_sessions.stores.protocols import NearCopy
from tests.explorer.actors import Actor, Fact, Phase, Worker
from tests.explorer.gate import Call, GatedStore
from tests.explorer.links import BOUND, Link, Process, Server, Time
from tests.explorer.scenario import EVERYTHING, LOST_RECORD, Action, Footprint, view
from tests.explorer.world import TICK, World

__all__ = ["LINK_FAULTS", "NearWorld"]

LINK_FAULTS: Final = ("link ends", "link silent", "demoted")
_TRANSPORT: Final = CookieTransport()
_HINT: Final = _TRANSPORT.hint()[1].partition(b";")[0]


class _NearStore(GatedStore):
    """A gated store whose process keeps copies."""

    client_cache = BOUND

    def __init__(self, process: Process, real: Store, *given: Any, **options: Any) -> None:
        super().__init__(real, *given, **options)
        self._process = process

    def near_copy(self, id: str) -> NearCopy | None:
        return self._process.near_copy(id)


class _Door:
    """What the middleware of a process does around one request."""

    def __init__(self, world: NearWorld, process: Process, actor: Actor) -> None:
        self._world = world
        self._process = process
        self._actor = actor
        self.hinted = world.hinted(actor.browser)
        self.before: Stored | None = None
        self.after: Stored | None = None
        self.served = False

    def load(self, worker: Worker, text: str) -> Session | None:
        backend = backend_of(worker)
        setup = cast("Setup", SimpleNamespace(copies=backend.copies, backend=backend))
        scope = {"headers": [(b"cookie", _HINT)] if self.hinted else []}
        session = load_near(setup, scope, [text], _TRANSPORT, lambda: None)
        if session is not None:
            self.served = True
            self._world.served(self._actor, session)
        return session

    def loaded(self, worker: Worker, session: Session) -> None:
        self.before = state_of(session).stored
        if self._actor.kind == "socket" and state_of(session).live is not None:
            self._world.open_socket(self._actor, self._process, worker, session)

    def answered(self, session: Session) -> None:
        self.after = state_of(session).stored

    @property
    def hints(self) -> bool:
        """Whether the answer has the browser say that it has changed its session."""
        headers: list[tuple[bytes, bytes]] = []
        hint(self.before, self.after, _TRANSPORT, headers)
        return bool(headers)


class NearWorld(World):
    """One execution over processes with near copies."""

    server_rereads = True
    """Whether the commit script reads what it has set."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.time = Time(self.backend.clock)
        self.server = Server(rereads=self.server_rereads)
        prefix, waits = self.backend.store.prefix, self.scenario.waits
        self.processes = [
            Process(n, self.server, self.time, prefix, waits=waits)
            for n in range(max(self.scenario.procs, default=0) + 1)
        ]
        self.bounds_left = self.scenario.bounds
        self.calls: dict[Call, Actor] = {}
        """Whose operations are under way."""
        self.doors: dict[int, _Door] = {}
        self.hints: dict[str, float] = {}
        self.arrived: set[int] = set()
        self.told: list[tuple[Fact, Actor, float]] = []
        """What was answered, by whom and when."""
        self.replaced: list[tuple[SessionToken, Actor, float]] = []
        """Which tokens were replaced by a rotation that was answered."""
        self.versions: dict[str, list[bytes]] = {}
        """What was stored under each id, one after the other."""
        self.sockets: dict[int, Watch] = {}
        self.closed: set[int] = set()
        """The requests whose sockets were ended."""
        self.from_copies = 0

    def process_of(self, actor: Actor) -> Process:
        """Where it runs."""
        return self.processes[self.scenario.procs[actor.number - 1]]

    # -- the beginning

    async def begin(self) -> None:
        await super().begin()
        for process in self.processes:
            process.reads_by(self.backend.store.load)
            for id in list(self.labels) if self.scenario.warm else ():
                load: Callable[[str], Any] = self.backend.store.load
                answer = self.time.create_future()
                await self._read(process, Call("load", id, lambda id=id: load(id), answer))
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
                if link is process.link and (link.dead or link.demoted):
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
        process = self.processes[int(str(nth).partition("/")[0])] if self._of_process(what) else None
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
                found |= {"time": False, "answered": False} | found | self._in(who, True)
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
                self._note_answer(actor)
            if actor.phase is Phase.DONE and actor.number not in self.arrived:
                self.arrived.add(actor.number)
                door = self.doors.get(actor.number)
                if door is not None and door.hints:
                    self.hints[actor.browser] = self.backend.clock() + HINT_SECONDS

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

    def _note_answer(self, actor: Actor) -> None:
        now = self.time.time()
        self.told += [(fact, actor, now) for fact in actor.facts]
        old, new = actor.token, actor.cookie
        if old is not None and isinstance(new, SessionToken) and new.id == old.id and new != old:
            self.replaced.append((old, actor, now))

    # -- requests

    def _gate(self, actor: Actor) -> GatedStore:
        process = self.process_of(actor)
        return _NearStore(process, self.real, self.backend.clock, actor.posted)

    async def _leave(self, actor: Actor) -> None:
        actor.door = self.doors[actor.number] = _Door(self, self.process_of(actor), actor)
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
        if call.name == "end":  # each end writes, if only a TTL
            self.server.changed(id, link, reread=self.server.rereads and not repeated)
        elif stored:
            self.server.changed(id, link, reread=self.server.rereads)

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

    # -- what is checked

    async def _look(self, id: str) -> None:
        before = self.raws.get(id)
        await super()._look(id)
        raw = self.raws.get(id)
        if raw is not None and raw != before:
            self.versions.setdefault(id, []).append(version(raw))

    def hinted(self, browser: str) -> bool:
        """Whether a browser says that it has changed its session."""
        return self.backend.clock() < self.hints.get(browser, float("-inf"))

    def served(self, actor: Actor, session: Session) -> None:
        """A request is served from a copy."""
        stored, now = state_of(session).stored, self.time.time()
        assert stored is not None
        self.from_copies += 1
        self.trace.append(f"{actor.number} is served a copy")
        id, here = stored.token.id, self.process_of(actor)
        record = view(self.sealer, self.tokens.get(id, ()), stored.sealed)
        ends = [(by, at) for fact, by, at in self.told if self._ends(fact, id, record)]
        ends += [(by, at) for token, by, at in self.replaced if token == actor.token]
        if self.used & {*LOST_RECORD}:
            ends = []
        for by, at in ends:
            if now - at > BOUND:
                self.broken.append("I2 served from a copy later than the bound")
            if self.process_of(by) is here:
                self.broken.append("I2 who answered serves a copy of before")
        known = self.versions.get(id, [])
        for other in self.actors:
            door = self.doors.get(other.number)
            mine = other.number in self.arrived and other.browser == actor.browser
            if not mine or door is None or door.after is None or other.dropped:
                continue
            changed = door.before is None or door.before.sealed != door.after.sealed
            if changed and door.after.version in known and stored.version in known:
                if known.index(stored.version) < known.index(door.after.version):
                    self.broken.append("a browser sees less than it has stored")

    def open_socket(
        self, actor: Actor, process: Process, worker: Worker, session: Session
    ) -> None:
        """A request goes on as a socket, which its session's end ends."""

        def ended(_: object) -> None:
            self.closed.add(actor.number)
            self.trace.append(f"{actor.number}'s socket is ended")

        self.sockets[actor.number] = Watch(backend_of(worker), process, session, ended)

    async def conclude(self) -> None:
        """Time passes, and everybody hears everything: then copies and sockets are up to date."""
        for _ in range(3):
            await self._pass()
            for process in self.processes:
                while process.beats or process.pending or any(k.stream for k in process.links):
                    await self._flush(process)
                    await self._run_timers()
        for process in self.processes:
            for id in self.labels:
                copy = process.near_copy(id)
                if copy is not None and copy.value != self.raws.get(id):
                    self.broken.append("a copy stays that isn't what is stored")
        for number in () if self.used & {*LOST_RECORD} else self.sockets:
            lives = self.opened_by(self.actors[number - 1].token) is not None
            if not lives and number not in self.closed:
                self.broken.append("a socket outlives its session")
            if lives and number in self.closed:
                self.broken.append("a socket is ended though its session lives")

    async def _flush(self, process: Process) -> None:
        link = process.link
        if link is not None and (link.dead or link.demoted):
            self._find_out(process)
            self._send_again()
        while process.pending:
            await self._read(process, process.pending.pop())
        if process.beats:
            process.beat()
        for link in process.links:
            while link.stream and not link.lost:
                await self._hear(f"{process.number}/{link.number}")

    async def stop(self) -> None:
        for watch in self.sockets.values():
            watch.stop()
        await super().stop()

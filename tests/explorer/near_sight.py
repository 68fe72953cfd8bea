"""What an execution with near copies shows: who was served what, and when that was out of date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.watching import Watch
from redis_sessions.session.record import version
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.token import SessionToken
from tests.explorer.actors import Actor, Fact, Worker
from tests.explorer.gate import Call
from tests.explorer.links import BOUND, Process, Server, Time, own_time
from tests.explorer.near_door import NearDoor
from tests.explorer.scenario import LOST_RECORD, Rec, Tomb, view
from tests.explorer.world import World

__all__ = ["NearSight"]


class NearSight(World):
    """Processes, their sockets, and what was answered when."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._own_time = own_time()
        self.time = Time(self.backend.clock)
        self.server = Server()
        prefix, waits = self.backend.store.prefix, self.scenario.waits
        self.processes = [
            Process(n, self.server, self.time, prefix, waits=waits)
            for n in range(max(self.scenario.procs, default=0) + 1)
        ]
        self.bounds_left = self.scenario.bounds
        self.calls: dict[Call, Actor] = {}
        """Whose operations are under way."""
        self.doors: dict[int, NearDoor] = {}
        self.hints: dict[str, tuple[float, bytes]] = {}
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

    def note_answer(self, actor: Actor) -> None:
        now = self.time.time()
        self.told += [(fact, actor, now) for fact in actor.facts]
        old, new = actor.token, actor.cookie
        if old is not None and isinstance(new, SessionToken) and new.id == old.id and new != old:
            self.replaced.append((old, actor, now))

    async def _look(self, id: str) -> None:
        before = self.raws.get(id)
        await super()._look(id)
        raw = self.raws.get(id)
        if raw is not None and raw != before:
            self.versions.setdefault(id, []).append(version(raw))

    def hint_of(self, browser: str) -> bytes | None:
        """The cookie by which a browser says that it has changed its session."""
        until, cookie = self.hints.get(browser, (float("-inf"), None))
        return cookie if self.backend.clock() < until else None

    def served(self, actor: Actor, session: Session) -> None:
        """A request is served from a copy."""
        stored, now = state_of(session).stored, self.time.time()
        assert stored is not None
        self.from_copies += 1
        self.trace.append(f"{actor.number} is served a copy")
        id, here = stored.token.id, self.process_of(actor)
        record = view(self.sealer, self.tokens.get(id, ()), stored.sealed)
        for by, at in () if self.used & {*LOST_RECORD} else self._ends_of(actor, id, record):
            if now - at > BOUND:
                self.broken.append("I2 served from a copy later than the bound")
            if self.process_of(by) is here:
                self.broken.append("I2 who answered serves a copy of before")
        known = self.versions.get(id, [])
        lost = self.used & {*LOST_RECORD}
        if lost or stored.version not in known:
            return
        served = known.index(stored.version)
        for other in self.actors:
            door = self.doors.get(other.number)
            if other.number not in self.arrived or other.browser != actor.browser:
                continue
            if door is None or door.after is None or not door.hints:
                continue
            if door.after.version in known[served + 1 :]:
                self.broken.append("a browser sees less than it has stored")

    def _ends_of(
        self, actor: Actor, id: str, record: Rec | Tomb | None
    ) -> Iterator[tuple[Actor, float]]:
        """Who has answered that what it was served is over, and when."""
        yield from ((by, at) for fact, by, at in self.told if self._ends(fact, id, record))
        yield from ((by, at) for token, by, at in self.replaced if token == actor.token)

    def open_socket(self, actor: Actor, process: Process, worker: Worker, session: Session) -> None:
        """A request goes on as a socket, which its session's end ends."""

        def ended(_: object) -> None:
            self.closed.add(actor.number)
            self.trace.append(f"{actor.number}'s socket is ended")

        self.sockets[actor.number] = Watch(backend_of(worker), process, session, ended)

    def compare(self) -> None:
        """Everybody has heard everything: are copies and sockets up to date?"""
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

    async def stop(self) -> None:
        for watch in self.sockets.values():
            watch.stop()
        self._own_time.__exit__(None, None, None)
        await super().stop()

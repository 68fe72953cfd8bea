"""One execution in an order that a test gives: for the traces that are known."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from redis_sessions.session.session import Session
from tests.explorer.actors import Actor, Phase, Worker
from tests.explorer.audit import Eager, audit
from tests.explorer.backends import Backend
from tests.explorer.invariants import Before, after_step, at_the_end
from tests.explorer.scenario import Action, Rec, Scenario
from tests.explorer.tokens import watching_tokens
from tests.explorer.world import World

__all__ = ["Player"]


class Player:
    """Lets named requests go on, step by step. All invariants are checked at every step.

    Requests are numbered from 1, in the order in which they are given.
    """

    def __init__(self, backend: Backend, start: str, *specs: str, fault: str | None = None) -> None:
        self.world = self._world(backend, Scenario(start, specs, fault))
        self.broken: list[str] = []
        self._watching = watching_tokens(lambda: self.world)

    def _world(self, backend: Backend, scenario: Scenario) -> World:
        return World(backend, scenario)

    async def __aenter__(self) -> Self:
        self._watching.__enter__()
        await self.world.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self._conclude()
        finally:
            await self.world.stop()
            self._watching.__exit__(None, None, None)

    async def _conclude(self) -> None:
        for actor in self.world.actors:
            if actor.phase not in (Phase.DONE, Phase.DEAD):
                await self.finish(actor.number)
                await self.arrive(actor.number)
        await self.world.conclude()
        self.broken.extend(self.world.broken)
        self.broken.extend(at_the_end(self.world))
        self.broken.extend(await audit(self.world))
        assert not self.broken, "\n".join([*self.broken, *self.world.trace])

    def actor(self, who: int) -> Actor:
        """A request."""
        return self.world.actors[who - 1]

    async def do(self, what: str, who: int = 0, nth: int | str = 0) -> None:
        """One action."""
        before, action = Before.of(self.world), Action(what, who, nth)
        assert action in self.world.actions(), f"{action} can't happen now: {self.world.trace}"
        await self.world.perform(action)
        self.broken.extend(after_step(self.world, before, action))

    async def leave(self, *who: int) -> None:
        """These requests take the browser's cookie, and load what it opens."""
        for number in who:
            await self.do("leave", number)
            if self._waits_for(number, "load"):
                await self.do("op", number)

    async def until(self, who: int, name: str) -> None:
        """Let a request go on until the operation `name` waits."""
        if self.actor(who).phase is Phase.IDLE:
            await self.do("leave", who)
        while not self._waits_for(who, name):
            await self.do("op", who)

    async def past(self, who: int, name: str) -> None:
        """Let a request go on until the operation `name` is done."""
        await self.until(who, name)
        await self.do("op", who)

    async def finish(self, who: int) -> None:
        """Let a request go on until it is answered."""
        if self.actor(who).phase is Phase.IDLE:
            await self.do("leave", who)
        while self.actor(who).pending:
            await self.do("op", who)

    async def arrive(self, who: int) -> None:
        """Its answer arrives, if it has a cookie."""
        if self.actor(who).phase is Phase.SENT:
            await self.do("arrive", who)

    async def whole(self, *who: int) -> None:
        """These requests, one after the other, with nothing in between."""
        for number in who:
            await self.finish(number)
            await self.arrive(number)

    def _waits_for(self, who: int, name: str) -> bool:
        pending = self.actor(who).pending
        return bool(pending) and pending[0].name == name

    # -- what is there now

    @property
    def jar(self) -> Rec | None:
        """What the browser's cookie opens."""
        return self.world.opened_by(self.world.jar)

    @property
    def first(self) -> Rec | None:
        """The session that it started from, as far as it lives."""
        return self.first_of("")

    def first_of(self, browser: str) -> Rec | None:
        """The session that a browser started from, as far as it lives."""
        token = self.world.firsts.get(browser)
        record = self.world.records.get(token.id if token else "")
        return record if isinstance(record, Rec) else None

    async def touch(self, browser: str = "") -> Session:
        """The browser's next request, which finds its touch due."""
        manager = Eager(self.world.real, self.world.backend.clock, lambda _: None)
        jar = self.world.jars.get(browser)
        session = await manager.load(jar.value if jar else None)
        await manager.commit(session)
        return await manager.load(jar.value if jar else None)

    def manager(self) -> Worker:
        """Another process' manager, whose operations wait for nobody."""
        return Worker(self.world.real, self.world.backend.clock, lambda _: None)

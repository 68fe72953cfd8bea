"""One execution over processes with near copies, in an order that a test gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.explorer.actors import Phase
from tests.explorer.backends import Backend
from tests.explorer.near_world import NearWorld
from tests.explorer.player import Player
from tests.explorer.scenario import Scenario

__all__ = ["NearPlayer"]


class NearPlayer(Player):
    """Besides requests, it lets processes hear what was sent to them. `procs`: where they run."""

    world: NearWorld

    def __init__(
        self,
        backend: Backend,
        start: str,
        *specs: str,
        procs: tuple[int, ...],
        fault: str | None = None,
        world: type[NearWorld] = NearWorld,
        **options: Any,
    ) -> None:
        self._options = {"procs": procs, **options}
        self._make = world
        super().__init__(backend, start, *specs, fault=fault)

    def _world(self, backend: Backend, scenario: Scenario) -> NearWorld:
        return self._make(backend, replace(scenario, **self._options))

    async def hear(self, process: int) -> None:
        """A process hears the next message."""
        own = f"{process}/"
        heard = [a for a in self.world.actions() if a.what == "hear" and str(a.nth)[:2] == own]
        assert heard, f"there is nothing to hear: {self.world.trace}"
        await self.do(*heard[0])

    async def beat(self, process: int) -> None:
        """A process sends a heartbeat, and hears everything up to its answer."""
        await self.do("beat", 0, str(process))
        link = self.world.processes[process].links[-1]
        while link.stream:
            await self.hear(process)

    async def finish(self, who: int) -> None:
        if self.actor(who).phase is Phase.IDLE:
            await self.do("leave", who)
        actor = self.actor(who)
        while actor.phase is Phase.RUNNING:
            if actor.pending:
                await self.do("op", who)
            else:
                await self.hear(self.world.process_of(actor).number)

    async def leave(self, *who: int) -> None:
        await super().leave(*who)
        for number in who:
            while self.actor(number) in self.world.calls.values():
                await self.hear(self.world.process_of(self.actor(number)).number)

    def served(self, who: int) -> bool:
        """Whether a request was served from a copy."""
        return self.world.doors[who].served

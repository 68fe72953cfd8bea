"""Every order of a scenario's actions, by running it again and again (stateless model checking).

Depth first; orders that differ only in independent actions are tried once (sleep sets, Godefroid
1996): what touches neither the same record, nor the same index, nor the browser's cookie, nor the
time, commutes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from redis_sessions.events import logger
from tests.explorer.actors import Worker
from tests.explorer.audit import audit
from tests.explorer.backends import Backend
from tests.explorer.invariants import Before, after_step, at_the_end
from tests.explorer.observation import Wrapper
from tests.explorer.scenario import EVERYTHING, Action, Footprint, Scenario
from tests.explorer.tokens import watching_tokens
from tests.explorer.world import World

__all__ = ["Explorer", "Result", "independent"]


CHANGES: Final = 0.2
"""How often somebody else goes first, in an order at random."""


@dataclass(eq=False)
class _Node:
    """A choice that was made on the way."""

    enabled: Sequence[Action]
    footprints: dict[Action, Footprint]
    sleep: dict[Action, Footprint]
    chosen: Action


@dataclass
class Result:
    """What an exploration found."""

    runs: int = 0
    """Interleavings that ran to their end, none equivalent to another."""
    steps: int = 0
    cut: int = 0
    """Scenarios that were left at their bound."""
    scenarios: int = 0
    violations: Counter[str] = field(default_factory=Counter[str])
    traces: dict[str, tuple[str, list[str]]] = field(
        default_factory=dict[str, "tuple[str, list[str]]"]
    )
    """For each violation the shortest trace, and its scenario."""

    def note(self, violation: str, scenario: Scenario, trace: Sequence[str]) -> None:
        """Count a violation; keep the shortest trace."""
        self.violations[violation] += 1
        known = self.traces.get(violation)
        if known is None or len(trace) < len(known[1]):
            self.traces[violation] = str(scenario), list(trace)

    def report(self) -> str:
        """The violations, each with a trace."""
        lines = list[str]()
        for violation, (scenario, trace) in sorted(self.traces.items()):
            count = self.violations[violation]
            lines += [f"\n{violation} ({count} times), in {scenario}", *(f"    {t}" for t in trace)]
        return "\n".join(lines)


class _Log(logging.Handler):
    """What the library logs meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def taken(self) -> str:
        """The lines since it was asked last."""
        lines, self._lines = self._lines, []
        return "\n".join(lines)

    @contextmanager
    def listening(self) -> Generator[None]:
        """Keep the lines, instead of showing them."""
        logger.addHandler(self)
        logger.propagate = False
        try:
            yield
        finally:
            logger.propagate = True
            logger.removeHandler(self)


class _Priorities:
    """Who goes first, at random: each request, link and fault, until that changes.

    So one may be left behind for long, which rarely happens if each step is chosen alone
    (Burckhardt and others 2010).
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._of: dict[object, float] = {}

    def sort(self, enabled: list[Action]) -> None:
        """Put the first one first; sometimes it is behind others from then on."""
        for action in enabled:
            self._of.setdefault(self._who(action), self._random.random())
        enabled.sort(key=lambda action: self._of[self._who(action)])
        if self._random.random() < CHANGES:
            self._of[self._who(enabled[0])] = 2 * self._random.random()

    @staticmethod
    def _who(action: Action) -> object:
        return action.who or (action.what, action.nth)


class Explorer:
    """Explores scenarios over one store. `wrap`, `worker`: something broken, to be found out.

    `world`: how an execution goes.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        bound: int = 100_000,
        wrap: Wrapper = lambda store: store,
        worker: type[Worker] = Worker,
        world: Callable[..., World] = World,
    ) -> None:
        self.result = Result()
        self._make_world = world
        self._backend = backend
        self._bound = bound
        self._wrap = wrap
        self._worker = worker
        self._world: World | None = None
        self._log = _Log()

    async def explore(self, scenario: Scenario) -> int:
        """Every order of it, up to the bound; how many ran to their end."""
        with watching_tokens(lambda: self._world), self._log.listening():
            return await self._explore(scenario)

    async def finds(self, breaks: str, scenarios: Iterable[Scenario]) -> bool:
        """Whether this invariant is broken in one of these scenarios: explored until it is."""
        for scenario in scenarios:
            await self.explore(scenario)
            if any(found.startswith(breaks) for found in self.result.violations):
                return True
        return False

    async def _explore(self, scenario: Scenario) -> int:
        stack, runs = list[_Node](), 0
        self.result.scenarios += 1
        while True:
            runs += await self._run(scenario, stack)
            if runs >= self._bound:
                self.result.cut += 1
                break
            while stack:
                node = stack[-1]
                node.sleep[node.chosen] = node.footprints[node.chosen]
                choice = _first(node.enabled, node.sleep)
                if choice is not None:
                    node.chosen = choice
                    break
                stack.pop()
            if not stack:
                break
        self.result.runs += runs
        return runs

    async def walk(self, scenario: Scenario, walks: int) -> None:
        """So many orders of it at random, always the same ones. A scenario may be too large."""
        with watching_tokens(lambda: self._world), self._log.listening():
            self.result.scenarios += 1
            for _ in range(walks):
                random = Random(f"{scenario} {self.result.runs}")  # noqa: S311 - of no secret
                priorities = _Priorities(random)
                self.result.runs += await self._run(scenario, [], priorities)

    async def _run(
        self, scenario: Scenario, stack: list[_Node], priorities: _Priorities | None = None
    ) -> bool:
        """One execution: the choices on the stack, then the first that isn't asleep.

        `priorities`: or the one that these put first.
        """
        world = self._make_world(self._backend, scenario, self._wrap, self._worker)
        self._world = world
        found = set[str]()
        try:
            await world.begin()
            sleep = dict[Action, Footprint]()
            depth = 0
            while True:
                if depth == len(stack):
                    enabled = world.actions()
                    if not enabled:
                        break
                    if priorities is not None:
                        priorities.sort(enabled)
                    choice = _first(enabled, sleep)
                    if choice is None:
                        return False  # every order from here is equivalent to one that ran
                    footprints = {action: world.footprint(action) for action in enabled}
                    stack.append(_Node(enabled, footprints, dict(sleep), choice))
                node = stack[depth]
                chosen = node.chosen
                before = Before.of(world)
                await world.perform(chosen)
                mine = node.footprints[chosen] = world.after(node.footprints[chosen], before.codes)
                self.result.steps += 1
                found.update(after_step(world, before, chosen))
                sleep = {a: f for a, f in node.sleep.items() if independent(f, mine)}
                depth += 1
            await world.conclude()
            found.update(world.broken)
            found.update(at_the_end(world, self._log.taken()))
            found.update(await audit(world))
        except AssertionError as exc:
            found.add(str(exc))
        finally:
            await world.stop()
            self._world = None
        for violation in found:
            self.result.note(violation, scenario, world.trace)
        return True


def _first(enabled: Sequence[Action], sleep: dict[Action, Footprint]) -> Action | None:
    return next((action for action in enabled if action not in sleep), None)


def independent(one: Footprint, other: Footprint) -> bool:
    """Whether the order of two actions makes no difference."""
    if EVERYTHING in one or EVERYTHING in other:
        return False
    return not any(name in other and (writes or other[name]) for name, writes in one.items())

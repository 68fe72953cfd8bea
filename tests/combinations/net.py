"""Runs journeys with values, and compares what they show."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Final, NamedTuple

import pytest

from redis_sessions import ConfigurationError
from tests.combinations.effects import EFFECTS, REFUSED, TOGETHER, Effect, Refused, Together
from tests.combinations.grounds import Ground
from tests.combinations.journeys import JOURNEYS
from tests.combinations.traces import Trace, differences, merged, places, shown
from tests.combinations.values import VALUES, Value, combined
from tests.combinations.world import World

Pair = tuple[Value, Value]

_SEVERAL: Final = frozenset({"accept"})
"""Options of which an application may have several values at once."""


class RefusedError(Exception):
    """These values are refused at start."""


class Difference(NamedTuple):
    """Where a journey shows something else than it should."""

    values: str
    journey: str
    step: str
    name: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return (
            f"{self.values}: {self.journey}, {self.step!r}: {self.name} is {self.found!r}, "
            f"and should be {self.expected!r}"
        )


def world_of(ground: Ground, values: Sequence[Value]) -> World:
    """An application with these values. Raises `RefusedError`."""
    try:
        world = World(combined(*values), ground)
    except ConfigurationError as exc:  # of a manager, or of what is beside the middleware
        raise RefusedError(str(exc)) from None
    if world.refused is not None:
        raise RefusedError(world.refused)
    return world


async def travel(world: World, journey: str, values: Sequence[Value]) -> Trace:
    """What a journey shows with these values."""
    try:
        async with asyncio.timeout(60):
            return await world.travel(JOURNEYS[journey])
    except Exception as exc:
        exc.add_note(f"the journey {journey} with {' and '.join(map(str, values)) or 'nothing'}")
        raise


def values_on(ground: Ground) -> list[Value]:
    """The values that this ground has."""
    return [value for value in VALUES if value.only_on in (None, ground.name)]


def pairs_on(ground: Ground) -> list[Pair]:
    """All pairs of values that an application may have. On Redis, one of them needs it."""
    return [
        pair
        for pair in combinations(values_on(ground), 2)
        if may_meet(*pair)
        and (ground.name == "memory" or any(value.only_on == "redis" for value in pair))
    ]


def may_meet(*values: Value) -> bool:
    """Whether one application may have all of these: one value of each option, but for a few."""
    options = [value.option for value in values if value.option not in _SEVERAL]
    return len(set(options)) == len(options)


class Net:
    """Journeys over one ground. What is the same for many comparisons is travelled once."""

    def __init__(self, ground: Ground, journeys: Iterable[str] = JOURNEYS) -> None:
        self.ground = ground
        self.journeys = list(journeys)
        self.travelled = 0
        """How many journeys were made."""
        self.needed = set[Effect | Together | Refused]()
        """The lines of the tables that something needed."""
        self._known: dict[tuple[str, tuple[Value, ...]], Trace] = {}
        self._worlds: dict[tuple[Value, ...], World] = {}

    async def _travel(self, world: World, journey: str, *values: Value) -> Trace:
        self.travelled += 1
        return await travel(world, journey, values)

    async def known(self, journey: str, *values: Value) -> Trace:
        """What a journey shows with at most a few values."""
        key = journey, values
        if key not in self._known:
            if values not in self._worlds:
                self._worlds[values] = world_of(self.ground, values)
            self._known[key] = await self._travel(self._worlds[values], journey, *values)
        return self._known[key]

    async def alone(self, value: Value) -> list[Difference]:
        """Where journeys differ with this value, and no line of the table says so."""
        found = list[Difference]()
        for journey in self.journeys:
            base, one = await self.known(journey), await self.known(journey, value)
            for step, name in differences(base, one):
                lines = [e for e in EFFECTS if e.covers(value, journey, name)]
                self.needed.update(lines)
                if not lines:
                    place = step, name
                    expected, got = shown(base, place), shown(one, place)
                    found.append(Difference(str(value), journey, step, name, expected, got))
        return found

    async def together(self, one: Value, other: Value) -> list[Difference]:
        """Where journeys with both differ from what each does alone, and no line says so."""
        if self._is_refused(one, other):
            self._check_refusal(one, other)
            return []
        found, world = list[Difference](), world_of(self.ground, (one, other))
        for journey in self.journeys:
            both = await self._travel(world, journey, one, other)
            base = await self.known(journey)
            first, second = await self.known(journey, one), await self.known(journey, other)
            for difference in self._between(journey, (one, other), base, first, second, both):
                lines = [
                    line for line in TOGETHER if line.covers(one, other, journey, difference.name)
                ]
                self.needed.update(lines)
                if not lines:
                    found.append(difference)
        return found

    async def further(self, values: Sequence[Value]) -> list[Difference]:
        """As `together`, with one value more: without it the others are the base."""
        *before, last, another = values
        if any(self._is_refused(*pair) for pair in combinations(values, 2)):
            return []
        found, world = list[Difference](), world_of(self.ground, values)
        for journey in self.journeys:
            base = await self.known(journey, *before)
            first = await self.known(journey, *before, last)
            second = await self.known(journey, *before, another)
            both = await self._travel(world, journey, *values)
            found += [
                difference
                for difference in self._between(journey, values, base, first, second, both)
                if not any(
                    line.covers(*pair, journey, difference.name)
                    for line in TOGETHER
                    for pair in combinations(values, 2)
                )
            ]
        return found

    def _between(
        self,
        journey: str,
        values: Sequence[Value],
        base: Trace,
        first: Trace,
        second: Trace,
        both: Trace,
    ) -> Iterator[Difference]:
        if (both == first and second == base) or (both == second and first == base):
            return  # most are like this
        expected = merged(base, first, second)
        for place in dict.fromkeys([*expected, *places(both)]):
            may_be, got = expected.get(place, [None]), shown(both, place)
            if got not in may_be:
                names = " and ".join(map(str, values))
                yield Difference(names, journey, *place, may_be, got)

    def _is_refused(self, one: Value, other: Value) -> bool:
        return any(_refuses(line, one, other) for line in REFUSED)

    def _check_refusal(self, one: Value, other: Value) -> None:
        """A pair that is to be refused at start is, with the words of the table."""
        line = next(line for line in REFUSED if _refuses(line, one, other))
        with pytest.raises(RefusedError, match=re.escape(line.why)):
            world_of(self.ground, (one, other))
        self.needed.add(line)


def _refuses(line: Refused, one: Value, other: Value) -> bool:
    together = Together(line.one, line.other, "*", "*", "")
    return together.covers(one, other, "", "")

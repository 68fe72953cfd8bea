"""What a journey shows, and what two values together have to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

Shown = dict[str, Any]
"""What one step shows: by name, a value, a `Counter` or a set."""
Trace = dict[str, Shown]
"""What a journey shows: its steps, by name, in their order."""

_MISSING = "no such step"


def merged(base: Trace, one: Trace, other: Trace) -> dict[tuple[str, str], list[Any]]:
    """What both values together may show in each step, given what each shows alone.

    This is a merge of two versions with a common base. What one value leaves as it is, the other
    one decides. If both change the same thing, either may win. Of a `Counter` or a set both changes
    are made.
    """
    return {
        place: _merged(_at(base, place), _at(one, place), _at(other, place))
        for place in places(base, one, other)
    }


def places(*traces: Trace) -> list[tuple[str, str]]:
    """Each step with each name in it."""
    found = {(step, name): None for t in traces for step, shown in t.items() for name in shown}
    return list(found)


def differences(one: Trace, other: Trace) -> Iterator[tuple[str, str]]:
    """Where two traces differ."""
    for place in places(one, other):
        if _at(one, place) != _at(other, place):
            yield place


def shown(trace: Trace, place: tuple[str, str]) -> Any:
    """What a trace shows there."""
    return _at(trace, place)


def _at(trace: Trace, place: tuple[str, str]) -> Any:
    step, name = place
    return trace.get(step, {}).get(name, _MISSING)


def _merged(base: Any, one: Any, other: Any) -> list[Any]:
    if other in (one, base):
        return [one]
    if one == base:
        return [other]
    if all(isinstance(each, Counter) for each in (base, one, other)):
        return [one + other - base, one, other]
    if all(isinstance(each, frozenset) for each in (base, one, other)):
        return [(one & other) | ((one | other) - base)]
    return [one, other]

"""Which requests are set against each other where processes keep near copies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from tests.explorer.near_world import LINK_FAULTS
from tests.explorer.scenario import Scenario

__all__ = ["FAMILIES", "changes", "ends", "own_changes", "sign_ins", "sockets", "touches"]

ENDS: Final = (
    *("out", "outx", "clear", "clear+a", "rotate", "reA", "inB", "resetA", "keepre"),
    *("revoke", "all", "keep"),
)
"""What ends a session, or replaces its token."""
FAULTS: Final = (None, *LINK_FAULTS, "failover record")
APART: Final = ((0, 1), (0, 0))


def ends(faults: Iterable[str | None] = (None,), kinds: Iterable[str] = ENDS) -> Iterator[Scenario]:
    """An end in one process, and requests that may be served from a copy, there and elsewhere."""
    for fault, end in itertools.product(faults, kinds):
        for procs, waits in itertools.product(APART, (False, True)):
            yield Scenario("A", ("read@first", end), fault, procs=procs, warm=True, waits=waits)
            yield Scenario("A", ("read@first", end), fault, procs=procs, waits=waits)
        yield Scenario("A", ("read@first", "read@first", end), fault, procs=(0, 1, 1), warm=True)
        yield Scenario(
            "A", ("read@first", "read@first", end), fault, procs=(0, 0, 1), warm=True, bounds=2
        )


def changes(faults: Iterable[str | None] = (None,)) -> Iterator[Scenario]:
    """Changes on top of copies that may be old."""
    pairs = (("a", "b"), ("a", "a"), ("a", "out"), ("a", "rotate"), ("a", "clear+a"), ("a", "inB"))
    for fault, pair, procs in itertools.product(faults, pairs, APART):
        for waits in (False, True):
            yield Scenario("A", pair, fault, procs=procs, warm=True, waits=waits)
    for fault, pair in itertools.product(faults, pairs):
        yield Scenario("A", ("read", *pair), fault, procs=(0, 0, 1), warm=True)
        yield Scenario("A", ("a", *pair), fault, procs=(0, 1, 0), warm=True)


def own_changes(faults: Iterable[str | None] = (None,)) -> Iterator[Scenario]:
    """A browser that changes its session in one process, and reads it in another."""
    for fault, kind in itertools.product(faults, ("a", "a+due", "b")):
        for procs in ((0, 1), (0, 0)):
            yield Scenario("A", (kind, "read"), fault, procs=procs, warm=True)
        yield Scenario("A", (kind, "read", "b"), fault, procs=(0, 1, 1), warm=True)
        yield Scenario("A", (kind, "read", "touch"), fault, procs=(0, 1, 0), warm=True, bounds=2)


def touches(faults: Iterable[str | None] = (None,)) -> Iterator[Scenario]:
    """A touch of a session that was found in a copy."""
    for fault, kind, other in itertools.product(faults, ("touch", "a+due"), (*ENDS, "a", "touch")):
        for procs in APART:
            yield Scenario("A", (kind, other), fault, procs=procs, warm=True)


def sign_ins(faults: Iterable[str | None] = (None,)) -> Iterator[Scenario]:
    """Sign-ins in sessions that are found in copies."""
    pairs = (("read", "inA"), ("a", "inA"), ("inA", "inA"), ("inA", "inB"), ("clear", "inA"))
    more = (("inA", "rotate"), ("inB", "empty"), ("inA", "all"))
    for fault, start, pair in itertools.product(faults, ("anon", "outA"), (*pairs, *more)):
        for procs in APART:
            yield Scenario(start, pair, fault, procs=procs, warm=True)
    for fault, pair in itertools.product(faults, (("reA", "out"), ("inB", "out"), ("inA", "all"))):
        for procs in APART:
            yield Scenario("A", pair, fault, procs=procs, warm=True)


def sockets(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = (*ENDS, "a", "touch")
) -> Iterator[Scenario]:
    """A socket, and what ends its session or doesn't."""
    for fault, end in itertools.product(faults, kinds):
        for procs in APART:
            yield Scenario("A", ("socket", end), fault, procs=procs, warm=True)
            yield Scenario("A", ("socket", end), fault, procs=procs)
        yield Scenario("A", ("socket", "a", end), fault, procs=(0, 1, 0), warm=True)


FAMILIES: Final = {
    "copies: ends": lambda: ends(FAULTS),
    "copies: changes": lambda: changes(FAULTS),
    "copies: own changes": lambda: own_changes(FAULTS),
    "copies: touches": lambda: touches(FAULTS),
    "copies: sign-ins": lambda: sign_ins(FAULTS),
    "copies: sockets": lambda: sockets(FAULTS),
}

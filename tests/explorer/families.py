"""Which requests are set against each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from tests.explorer.scenario import Scenario

__all__ = ["CORE", "FAMILIES", "FAULTS", "KINDS", "admin", "pairs", "singles", "triples"]

STARTS: Final = ("none", "anon", "A", "outA")
PLAIN: Final = (
    *("read", "touch", "a", "b", "a+due", "rotate", "inA", "inB", "reA", "out", "outx"),
    *("clear", "clear+a", "clear+inA", "empty"),
)
ANSWERED_BADLY: Final = (
    *("inA/400", "inB/400", "reA/400", "a/500", "out/500", "clear/400", "clear+a/500"),
    *("rotate/500",),
)
KINDS: Final = PLAIN + ANSWERED_BADLY
OWN: Final = ("resetA", "keepre")
CORE: Final = ("touch", "a", "rotate", "inA", "inB", "reA", "out", "outx", "clear", "clear+a")
FAULTS: Final = (*("crash", "lost", "away", "30 s", "expire", "failover record", "failover index"),)


def singles(faults: Iterable[str | None] = (None, *FAULTS)) -> Iterator[Scenario]:
    """One request at a time."""
    for fault, start, kind in itertools.product(faults, (*STARTS, "Alost"), KINDS + OWN):
        if (start, kind) != ("Alost", "resetA"):  # see test_explorer
            yield Scenario(start, (kind,), fault)


def pairs(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = KINDS
) -> Iterator[Scenario]:
    """Two requests on the same session."""
    both = list(itertools.combinations_with_replacement(kinds, 2))
    for fault, start, pair in itertools.product(faults, STARTS, both):
        if fault is None or not any("/" in kind for kind in pair):
            yield Scenario(start, pair, fault)


def admin(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = PLAIN
) -> Iterator[Scenario]:
    """A request and a revocation, by an administrator or by a request of the user's own."""
    kinds = tuple(kinds)
    for fault, start in itertools.product(faults, (*STARTS, "Alost")):
        for by, kind in itertools.product(("revoke", "all", "keep", *OWN), kinds):
            if start in ("anon", "none", "outA") and by in ("revoke", "keep"):
                continue
            yield Scenario(start, (kind, by), fault)


def triples(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = CORE
) -> Iterator[Scenario]:
    """Three requests at once, and two with a revocation."""
    kinds = tuple(kinds)
    three = list(itertools.combinations_with_replacement(kinds, 3))
    two = list(itertools.combinations_with_replacement(kinds, 2))
    for fault, start in itertools.product(faults, STARTS):
        yield from (Scenario(start, three_of, fault) for three_of in three)
        for by, pair in itertools.product(("revoke", "all", "keep"), two):
            if start == "A" or (by == "all" and start == "outA"):
                yield Scenario(start, (*pair, by), fault)


def _late_change(faults: Iterable[str | None] = (None,)) -> Iterator[Scenario]:
    """A change that is late when a sign-out and a revocation have come."""
    for fault in faults:
        yield Scenario("A", ("a+due", "out", "revoke"), fault)


FAMILIES: Final = {
    "singles": singles,
    "pairs": pairs,
    "admin": admin,
    "triples": triples,
    "late change": _late_change,
}

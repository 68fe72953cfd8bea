"""Which requests are set against each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from tests.explorer.scenario import Scenario

__all__ = [
    "CORE",
    "FAMILIES",
    "FAULTS",
    "INDEX_FAULTS",
    "KINDS",
    "admin",
    "aliases",
    "crossing_aliases",
    "crossing_steps",
    "marks",
    "pairs",
    "proofs",
    "singles",
    "steps",
    "triples",
]

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


STEPPING: Final = (
    *("touch", "a+due", "inA", "reA", "out", "rotate", "resetA", "keepre"),
    *("touch@9", "out@9", "reA@9", "clear@9", "inA@-"),
)
INDEX_FAULTS: Final = (
    *("crash", "lost", "failover record", "failover index", "30 s", "behind"),
    *("failover record then 30 s", "crash then 30 s"),
)


def steps(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = STEPPING
) -> Iterator[Scenario]:
    """`revoke_all`, step by step, and what comes in between: others of A's browsers, too."""
    kinds = tuple(kinds)
    for fault, by in itertools.product(faults, ("all", "keep")):
        yield from (Scenario(start, (by,), fault) for start in ("A2", "A3"))
        for kind in kinds:
            yield Scenario("A3" if "@9" in kind else "A2", (kind, by), fault)


def crossing_steps(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = STEPPING
) -> Iterator[Scenario]:
    """Two of `revoke_all` at once, with a request; and two requests with one of it."""
    kinds = tuple(kinds)
    pairs = list(itertools.combinations_with_replacement(kinds, 2))
    for fault, by in itertools.product(faults, ("all", "keep")):
        yield from (Scenario("A2", (by, second), fault) for second in ("all", "keep", "keep@9"))
        for kind, second in itertools.product(kinds, ("all", "keep", "keep@9")):
            yield Scenario("A2", (kind, by, second), fault)
        yield from (Scenario("A2", (*pair, by), fault) for pair in pairs)


MARKING: Final = ("out", "out@9", "clear", "clear@9", "inB@9", "revoke")


def marks(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = ("touch", "a+due", "reA", "inA")
) -> Iterator[Scenario]:
    """Ends in an index that keeps one mark, and `revoke_all` after ends that were broken off."""
    kinds = tuple(kinds)
    for fault in faults:
        for kind, end in itertools.product(kinds, MARKING):
            yield Scenario("A2", (kind, end), fault)
        for pair in itertools.combinations(("out", "out@9", "out@8", "revoke@9"), 2):
            yield Scenario("A3", pair, fault)
            yield from (Scenario("A3", (kind, *pair), fault) for kind in kinds)
        for end, by in itertools.product(("out", "revoke", "clear"), ("all", "keep@8")):
            yield Scenario("A3", (end, "out@9", by), fault)
        yield from (Scenario("Alost", (kind, "out@9", "inA@-"), fault) for kind in kinds)


def proofs(
    faults: Iterable[str | None] = (None, *INDEX_FAULTS),
) -> Iterator[Scenario]:
    """`authenticated()` and `rotate()`, which a record and an entry tell of, and what crosses."""
    others = ("touch", "a+due", "a", "reA", "rotate", "out", "all", "keep", "keepre")
    for fault in faults:
        yield Scenario("A", ("reA",), fault)
        yield from (Scenario("A", ("reA", other), fault) for other in others)
        yield Scenario("A", ("rotate",), fault)
        yield from (Scenario("A", ("rotate", other), fault) for other in others)


ALIASED: Final = (
    *("touch", "a+due", "inS", "inT", "reA", "rotate", "out", "clear", "inB", "resetS"),
    *("touch@9", "inS@9", "inS@-", "inT@-"),
)


def aliases(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = ALIASED
) -> Iterator[Scenario]:
    """`revoke_by`, step by step: "" has the alias S, and "9" of the same user has T."""
    for fault, by in itertools.product(faults, ("by", "byT")):
        yield Scenario("S2", (by,), fault)
        yield from (Scenario("S2", (kind, by), fault) for kind in kinds)
        yield from (Scenario("S2", (by, other), fault) for other in ("all", "revoke", "by", "byT"))


def crossing_aliases(
    faults: Iterable[str | None] = (None,), kinds: Iterable[str] = ALIASED
) -> Iterator[Scenario]:
    """Two requests with a `revoke_by`, and one with two."""
    kinds = tuple(kinds)
    for fault in faults:
        for pair in itertools.combinations_with_replacement(kinds, 2):
            yield Scenario("S2", (*pair, "by"), fault)
        for kind, other in itertools.product(kinds, ("byT", "all", "revoke")):
            yield Scenario("S2", (kind, "by", other), fault)


def _late_change(faults: Iterable[str | None] = (None,)) -> Iterator[Scenario]:
    """A change that is late when a sign-out and a revocation have come."""
    for fault in faults:
        yield Scenario("A", ("a+due", "out", "revoke"), fault)


FAMILIES: Final = {
    "singles": singles,
    "pairs": pairs,
    "admin": admin,
    "triples": triples,
    "steps": steps,
    "crossing steps": crossing_steps,
    "marks": marks,
    "proofs": proofs,
    "aliases": aliases,
    "late change": _late_change,
}

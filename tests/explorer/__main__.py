"""Explore everything: `python -m tests.explorer [--memory] [--bound N] [family …]`.

Over a real server unless `--memory`. Prints the interleavings that ran, for each family, and how
long they took; exits with 1 if an invariant was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

from tests.explorer.backends import Backend, MemoryBackend, narrow_memory, redis_backend
from tests.explorer.families import (
    FAULTS,
    INDEX_FAULTS,
    admin,
    aliases,
    crossing_aliases,
    crossing_steps,
    marks,
    pairs,
    proofs,
    singles,
    steps,
    triples,
)
from tests.explorer.mutants import MUTANTS
from tests.explorer.near_families import FAMILIES as NEAR
from tests.explorer.near_mutants import MUTANTS as NEAR_MUTANTS
from tests.explorer.near_world import NearWorld
from tests.explorer.scenario import Scenario
from tests.explorer.search import Explorer
from tests.explorer.world import World
from tests.support.servers import DEFAULT_SERVER, Server

DEEP: Final = ("touch", "a", "rotate", "inA", "inB", "out", "clear")
FAMILIES: Final[dict[str, Callable[[], Iterator[Scenario]]]] = {
    "singles": singles,
    "pairs": pairs,
    "revocations": admin,
    "triples": triples,
    "pairs, one fault": lambda: pairs(FAULTS),
    "revocations, one fault": lambda: admin(FAULTS),
    "triples, one fault": lambda: triples(FAULTS, DEEP),
    "proofs": proofs,
    "steps": lambda: steps((None, *INDEX_FAULTS)),
    "marks": lambda: marks((None, *INDEX_FAULTS)),
    "crossing steps": lambda: crossing_steps((None, "crash")),
    "aliases": lambda: aliases((None, *INDEX_FAULTS)),
    "crossing aliases": lambda: crossing_aliases((None, "crash")),
    **NEAR,
}
"""In the order of their size; those of indexes and of near copies last."""

WALKS: Final = 100
"""Of each scenario with near copies: there are too many orders of them."""

NARROW: Final = ("proofs", "steps", "marks", "crossing steps", "aliases", "crossing aliases")
"""Their indexes keep one mark, and are turned over an entry at a time."""


@asynccontextmanager
async def _backend(memory: bool, narrow: bool) -> AsyncGenerator[Backend]:
    if memory and narrow:
        with narrow_memory(MemoryBackend()) as backend:
            yield backend
    elif memory:
        yield MemoryBackend()
    else:
        with Server(DEFAULT_SERVER) as server:
            marks = 1 if narrow else 0
            async with redis_backend(server.unix_url, "session:explore:", marks=marks) as backend:
                yield backend


async def _explore(names: list[str], memory: bool, bound: int) -> bool:
    whole, began, sound = 0, time.monotonic(), True
    for name in names:
        near = name in NEAR  # its servers remember who has read what: the explorer's do that
        async with _backend(memory or near, name in NARROW) as backend:
            world = NearWorld if near else World
            explorer, start = Explorer(backend, bound=bound, world=world), time.monotonic()
            for scenario in FAMILIES[name]():
                await (explorer.walk(scenario, WALKS) if near else explorer.explore(scenario))
            found = explorer.result
            whole += found.runs
            sound = sound and not found.violations
            print(
                f"{name}: {found.scenarios} scenarios, {found.runs} interleavings, "
                f"{found.steps} steps, {time.monotonic() - start:.0f} s; "
                f"{found.cut} scenarios were left at {bound} interleavings{found.report()}",
                flush=True,
            )
    where = "the memory store" if memory else DEFAULT_SERVER
    print(f"{whole} interleavings over {where} in {time.monotonic() - began:.0f} s")
    return sound


def main() -> int:
    """Explore what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=[], metavar="family")
    parser.add_argument("--memory", action="store_true", help="not over a server, but in memory")
    parser.add_argument("--bound", type=int, default=20_000, help="interleavings of one scenario")
    options = parser.parse_args()
    names: list[str] = options.families or list(FAMILIES)
    unknown = set(names) - FAMILIES.keys()
    if unknown:
        parser.error(f"no such family: {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    print(f"{len(MUTANTS)} mutants are found out by tests/explorer/test_mutants.py")
    print(f"{len(NEAR_MUTANTS)} mutants are found out by tests/explorer/test_near_mutants.py")
    return 0 if asyncio.run(_explore(names, options.memory, options.bound)) else 1


if __name__ == "__main__":
    sys.exit(main())

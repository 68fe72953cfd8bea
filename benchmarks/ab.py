"""python -m benchmarks.ab CHECKOUT: another checkout of this library beside this one, in turns.

For example:

    git worktree add ../before main~3
    python -m benchmarks.ab ../before                           # about two minutes
    python -m benchmarks.ab ../before --rounds 20 --lanes 64    # one concurrency, to be sure

Each round starts a process for each checkout, one after the other, with this virtual environment
and a Redis on a Unix socket. Within a process the application without sessions, Starlette's signed
cookie and this library take turns, and so does this library with near copies where a checkout has
them. The figures are CPU and time beyond the application without sessions, as ratios to the signed
cookie's: of the best of all rounds, and in parentheses the median of each process' own ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.driver import pinned, turns
from benchmarks.markdown import markdown
from benchmarks.servers import available, listening
from benchmarks.shop import SECRET

ROOT = Path(__file__).parents[1]
# The library is imported first, from the checkout; the rest of it is found through the package.
WORKER = """
import sys
sys.path.insert(0, sys.argv[2])
import redis_sessions
assert redis_sessions.__file__.startswith(sys.argv[2]), redis_sessions.__file__
sys.path[0] = sys.argv[3]
from benchmarks.ab_worker import main
main()
"""
MEASURES = ("CPU", "time")
OURS = ("ours", "near")
TITLES = {"ours": "redis-sessions", "near": "near copies"}

Cell = tuple[str, int]
Samples = dict[tuple[str, int, str], list[list[float]]]
"""By operation, requests in flight and contender: CPU and time of each block."""


def turn(checkout: Path, url: str, cells: Sequence[Cell], rounds: int, seconds: float) -> Samples:
    """One process of a checkout."""
    given = {"url": url, "cells": cells, "rounds": rounds, "seconds": seconds}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WORKER, json.dumps(given), str(checkout), str(ROOT)],
        env={**os.environ, "BENCH_SECRET": SECRET}, cwd=checkout,
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    if any(found["errors"].values()):
        print(f"{checkout}: errors {found['errors']}", file=sys.stderr)
    return {
        (cell["operation"], cell["lanes"], name): blocks
        for cell in found["cells"]
        for name, blocks in cell["taken"].items()
    }


def best(samples: Samples, operation: str, lanes: int, name: str, measure: int) -> float | None:
    """As a ratio to the signed cookie, beyond no sessions: of the least of each."""
    if (operation, lanes, name) not in samples:
        return None
    none, cookie, own = (
        min(block[measure] for block in samples[operation, lanes, each])
        for each in ("none", "cookie", name)
    )
    return (own - none) / (cookie - none) if cookie > none else float("nan")


def all_of(processes: Sequence[Samples]) -> Samples:
    return {key: [block for samples in processes for block in samples[key]] for key in processes[0]}


def table(found: dict[str, list[Samples]], cells: Sequence[Cell]) -> str:
    rows = [["", "", *found, "÷"]]
    for operation, lanes in cells:
        for name in OURS:
            for measure, word in enumerate(MEASURES):
                where = operation, lanes, name, measure
                ratios = [best(all_of(processes), *where) for processes in found.values()]
                if any(ratio is not None for ratio in ratios):
                    row = [f"{operation}, {lanes}", f"{TITLES[name]}, {word}"]
                    row += [
                        shown(ratio, [best(each, *where) for each in processes])
                        for ratio, processes in zip(ratios, found.values(), strict=True)
                    ]
                    rows.append([*row, quotient(*ratios)])
    return markdown(rows)


def shown(ratio: float | None, each: Sequence[float | None]) -> str:
    known = [value for value in each if value is not None]
    return "-" if ratio is None else f"{ratio:.3f} ({median(known):.3f})"


def quotient(this: float | None, other: float | None) -> str:
    return "-" if this is None or other is None else f"{this / other:.3f}"


def named(checkout: Path) -> str:
    """Its directory and commit."""
    asked = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always", "--dirty"],  # noqa: S607 - whichever git
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"{checkout.name} {asked.stdout.strip()}".strip()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ab", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("checkout", type=Path, help="the other checkout of this repository")
    parser.add_argument("--this", type=Path, default=ROOT, help="instead of the one that runs")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each checkout")
    parser.add_argument("--blocks", type=int, default=3, help="of each contender in a process")
    parser.add_argument("--seconds", type=float, default=0.08, help="of one block")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 64, 256, 1024])
    parser.add_argument("--operations", nargs="+", default=["read", "change"])
    parser.add_argument("--server", default=None, help="redis or valkey")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    checkouts = {"this": given.this.resolve(), "other": given.checkout.resolve()}
    cells = [(operation, lanes) for operation in given.operations for lanes in given.lanes]
    found: dict[str, list[Samples]] = {name: [] for name in checkouts}
    kind = given.server or available()[0]
    with (
        tempfile.TemporaryDirectory() as directory,
        pinned(),
        listening(kind, Path(directory) / "redis.sock") as url,
    ):
        for number in range(given.rounds):
            for name in turns(list(checkouts), number):
                size = (given.blocks, given.seconds)
                found[name].append(turn(checkouts[name], url, cells, *size))
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    for name, checkout in checkouts.items():
        print(f"{name}: {named(checkout)}")
    print(f"{given.rounds} processes each, {given.blocks} blocks each, of {given.seconds} s\n")
    print(table(found, cells))


if __name__ == "__main__":
    main()

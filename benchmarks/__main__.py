"""python -m benchmarks [NAME...]: what sessions cost, beside what others cost."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    charts,
    check,
    codec,
    figures,
    http_load,
    near,
    overhead,
    redis_cost,
    report,
    scale,
    staleness,
)
from benchmarks.peers import PEERS, missing
from benchmarks.servers import KINDS, available

Run = Callable[[bool], dict[str, Any]]

RUNS: dict[str, Run] = {
    "codec": lambda quick: codec.measure(codec.QUICK if quick else codec.FULL),
    "overhead": lambda quick: overhead.measure(overhead.QUICK if quick else overhead.FULL),
    "http": lambda quick: http_load.measure(http_load.QUICK if quick else http_load.FULL),
    "redis": lambda quick: redis_cost.measure(redis_cost.QUICK if quick else redis_cost.FULL),
    "scale": lambda quick: scale.measure(scale.QUICK if quick else scale.FULL),
    "near": lambda quick: near.measure(near.QUICK if quick else near.FULL),
    "staleness": lambda quick: staleness.measure(staleness.QUICK if quick else staleness.FULL),
}
NAMES = (*RUNS, "check", "report")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; without: all that measure"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny run, to see that it runs")
    parser.add_argument("--record", action="store_true", help="check: record what is measured")
    parser.add_argument(
        "--output", type=Path, metavar="DIRECTORY", help="where figures go and are looked for"
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # A tiny run's figures mean nothing: they don't replace those of a real one.
    if options.output is None and not options.quick:
        options.output = figures.RESULTS
    return options


def absent() -> list[str]:
    """What isn't here, and is therefore left out."""
    lines = [f"{kind}-server" for kind in KINDS if kind not in available()]
    for peer in PEERS.values():
        lines += [f"{peer.title} (needs {name})" for name in missing(peer)]
    return lines


def main() -> int:
    options = arguments()
    for line in absent():
        print(f"missing, left out: {line}")
    if os.getloadavg()[0] > 0.5:
        print(f"the machine is busy (load {os.getloadavg()[0]:.1f}): figures may not stand still")
    output: Path | None = options.output
    took: dict[str, float] = {}
    for name in options.names or list(RUNS):
        start = time.monotonic()
        print(f"\n== {name}", flush=True)
        if name == "report":
            status = report.main(output or figures.RESULTS)
        elif name == "check":
            status = check.main(
                record=options.record, quick=options.quick, directory=output or figures.RESULTS
            )
        else:
            found = RUNS[name](options.quick)
            if output is not None:
                figures.save(name, found, output)
                charts.draw({name: found}, output)
            status = 0
        took[name] = time.monotonic() - start
        print(f"-- {took[name]:.0f} s", flush=True)
        if status:
            return status
    if len(took) > 1:
        print("\n" + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items()))
        print(f"in all {sum(took.values()):.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

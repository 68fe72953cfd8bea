"""Requests a second and their latency, over HTTP: uvicorn with one worker, and wrk.

wrk sends the next request when an answer has come (a closed loop), each with the cookie of another
browser, so that no session is asked for twice at a time. uvicorn has a core of its own, and wrk and
Redis share the others: if they move between cores, rates of two rounds differ by a third.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.driver import Progress, apart, turns
from benchmarks.peers import NEAR, OURS, PEERS, present
from benchmarks.ratios import ratio_of, rounds_of
from benchmarks.servers import available, serving
from benchmarks.workers import Site, site

__all__ = ["FULL", "QUICK", "Size", "load", "measure", "wrk"]

SCRIPT = Path(__file__).with_name("wrk.lua")
SHOWN = ("p50", "p99", "p999")


@dataclass(frozen=True)
class Size:
    """How much is measured. `seconds`: of one block."""

    rounds: int = 7
    seconds: int = 1
    cells: Sequence[tuple[str, int]] = (("read", 1), ("read", 64), ("read", 512), ("change", 64))
    peers: Sequence[str] | None = None


FULL = Size()
QUICK = Size(rounds=1, cells=(("read", 8),), peers=("none", "cookie", OURS, NEAR))


def wrk() -> str | None:
    return shutil.which("wrk")


def load(
    program: str, site: Site, operation: str, connections: int, seconds: int
) -> dict[str, Any]:
    """One block of wrk's."""
    with tempfile.NamedTemporaryFile("w", suffix=".cookies") as file:
        file.write("".join(f"{cookie}\n" for cookie in site.cookies))
        file.flush()
        command = [program, "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{seconds}s", "--script", str(SCRIPT)]
        command += [f"http://127.0.0.1:{site.port}/{operation}"]
        done = subprocess.run(
            command, env={**os.environ, "BENCH_COOKIES": file.name},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    return {
        "rate": round(found["requests"] / found["us"] * 1e6, 1),
        "errors": found["errors"],
        **{name: found[name] / 1e3 for name in SHOWN},
    }


def cell(
    program: str, sites: Sequence[Site], operation: str, connections: int, size: Size
) -> list[dict[str, Any]]:
    taken: dict[str, list[dict[str, Any]]] = {site.peer.name: [] for site in sites}
    for number in range(size.rounds):
        for each in turns(sites, number):
            taken[each.peer.name].append(load(program, each, operation, connections, size.seconds))
    return [
        {
            "operation": operation,
            "connections": connections,
            "peer": name,
            "rate": [block["rate"] for block in blocks],
            **{f"{shown}_ms": min(block[shown] for block in blocks) for shown in SHOWN},
            "errors": sum(block["errors"] for block in blocks),
        }
        for name, blocks in taken.items()
    ]


def measure(size: Size = FULL, progress: Progress = print) -> dict[str, Any]:
    program = wrk()
    if program is None:
        raise RuntimeError("wrk isn't here: `make servers`, or install it")
    rows: list[dict[str, Any]] = []
    kinds = available()
    browsers = max(connections for _, connections in size.cells)
    with ExitStack() as stack:
        core = stack.enter_context(apart())
        servers = {kind: stack.enter_context(serving(kind)) for kind in kinds}
        peers = [PEERS["none"], *present(kinds, "http")]
        sites = [
            stack.enter_context(site(peer, servers[peer.server].url, browsers=browsers, cores=core))
            for peer in peers
            if peer.name in (size.peers or PEERS)
        ]
        for operation, connections in size.cells:
            some = cell(program, sites, operation, connections, size)
            progress(line(some))
            rows += some
    return {"rounds": size.rounds, "http": rows}


def line(rows: Sequence[Mapping[str, Any]]) -> str:
    found = {row["peer"]: row for row in rows}
    parts = [
        f"{name} {rounds_of(row, 'rate').best():.0f}"
        f" ({ratio_of(row, found.get('cookie', row), 'rate')})"
        for name, row in found.items()
    ]
    return f"{rows[0]['operation']:8}{rows[0]['connections']:5}: " + ", ".join(parts)

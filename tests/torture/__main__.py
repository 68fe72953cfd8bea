"""Everything that takes minutes, one after the other, with what it found.

python -m tests.torture [state-machine] [cancellation] [soak] [chaos] [sockets] [leader]
                        [messages] [expiry] [php] [--minutes 3]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import uvloop
from hypothesis import settings

from tests.chaos import faults, figures
from tests.properties.state_machine import machine
from tests.support import php_mutations
from tests.support.servers import DEFAULT_SERVER, SERVERS, Server
from tests.torture import cancellation, expiry, leading, messages, soak
from tests.torture.sockets import run as sockets

MOST_GROWTH: Final = 6 << 20
"""Bytes that a process, or its server, may grow by in the last third of a soak."""


def _state_machine(url: str, arguments: argparse.Namespace) -> str:
    examples: int = arguments.examples
    profile = settings(machine.PROFILES["torture"], max_examples=examples)
    machine.run(url, "session:torture:", profile)
    return f"{examples} histories of up to {profile.stateful_step_count} steps, no difference"


def _cancellation(url: str, arguments: argparse.Namespace) -> str:
    half = arguments.requests // 2
    with asyncio.Runner() as runner:
        first = runner.run(cancellation.run(url, half, prefix="session:asyncio:"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        second = runner.run(cancellation.run(url, half, prefix="session:uvloop:", seed=2))
    return f"asyncio: {first}\n    uvloop: {second}"


def _soak(url: str, arguments: argparse.Namespace) -> str:
    result = asyncio.run(soak.run(url, arguments.minutes * 60))
    here, there = result.growth()
    if max(here, there) > MOST_GROWTH:
        raise AssertionError(f"memory grows\n    {result}")
    if result.left:
        raise AssertionError(f"keys without an end\n    {result}")
    if result.outcomes.keys() - {"200", "409", "503"}:
        raise AssertionError(f"unexpected answers\n    {result}")
    return str(result)


def _chaos(_: str, arguments: argparse.Namespace) -> str:
    lines, never = list[str](), list[str]()
    for scenario in faults.SCENARIOS:
        for case in figures.cases(scenario, arguments.seconds):
            reports, found = figures.measure(case)
            lines.append(f"{scenario} ({case.variant}): {figures.summary(reports)}")
            never += [f"{scenario} ({case.variant}): {what}" for what in found]
    if never:
        raise AssertionError("\n    ".join([*never, *lines]))
    return "\n    ".join(lines)


def _sockets(_: str, arguments: argparse.Namespace) -> str:
    size = sockets.Size(arguments.trials, arguments.sockets, arguments.minutes)
    return f"\n\n{sockets.run(size, arguments.parts)}\n"


def _expiry(url: str, arguments: argparse.Namespace) -> str:
    results = [
        asyncio.run(expiry.run(url, arguments.expiring, kill=kill)) for kill in (False, True)
    ]
    if any(each.untold or each.wrong for each in results):
        raise AssertionError("\n    ".join(map(str, results)))
    return "\n    ".join(map(str, results))


def _leader(url: str, arguments: argparse.Namespace) -> str:
    server, kinds = SERVERS[DEFAULT_SERVER], arguments.kind or leading.KINDS
    return leading.run(url, server, arguments.runs, arguments.lease, kinds)


def _messages(_: str, arguments: argparse.Namespace) -> str:
    result = asyncio.run(messages.run(arguments.messages))
    if result.wrong:
        raise AssertionError(f"messages\n    {result}")
    return str(result)


def _php(_: str, arguments: argparse.Namespace) -> str:
    count: int = arguments.mutations
    found = php_mutations.run(count, seed=1)
    return f"{count} altered sessions of PHP: {found['read']} read, {found['refused']} refused"


TASKS: Final[dict[str, Callable[[str, argparse.Namespace], str]]] = {
    "state-machine": _state_machine,
    "cancellation": _cancellation,
    "soak": _soak,
    "chaos": _chaos,
    "sockets": _sockets,
    "expiry": _expiry,
    "leader": _leader,
    "messages": _messages,
    "php": _php,
}


def main() -> int:
    """Run what was asked for, or all; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("tasks", nargs="*", choices=[[], *TASKS], metavar="|".join(TASKS))
    parser.add_argument("--examples", type=int, default=2000, help="histories to try")
    parser.add_argument("--requests", type=int, default=100_000, help="requests to cancel")
    parser.add_argument(
        "--minutes", type=float, default=3, help="to soak, and of sockets that open and close"
    )
    parser.add_argument("--seconds", type=float, default=2, help="of load around each fault")
    parser.add_argument("--trials", type=int, default=1000, help="of each end of a socket")
    parser.add_argument("--sockets", type=int, default=1000, help="of one user, or of one primary")
    parser.add_argument("--messages", type=int, default=100_000, help="over nine failovers")
    parser.add_argument("--expiring", type=int, default=100_000, help="sessions that run out")
    parser.add_argument("--parts", nargs="*", choices=sockets.PARTS, help="of the sockets")
    parser.add_argument("--runs", type=int, default=50, help="of each fault of a leader")
    parser.add_argument("--kind", nargs="*", choices=leading.KINDS, help="of a leader's faults")
    parser.add_argument("--lease", type=int, default=1, help="seconds of a leader's lease")
    parser.add_argument("--mutations", type=int, default=1_000_000, help="of PHP's sessions")
    arguments = parser.parse_args()
    failed = False
    for name in arguments.tasks or TASKS:
        started = time.monotonic()
        # What one task has left is none of the next one's: to collect it takes seconds.
        gc.collect()
        gc.freeze()
        with Server(DEFAULT_SERVER) as server:
            try:
                said = TASKS[name](server.url, arguments)
            except (AssertionError, ExceptionGroup) as exc:
                failed, said = True, f"FAILED: {exc!r}\n    {_notes(exc)}"
        command = " ".join(sys.argv[1:]) or "all"
        print(f"{name} ({time.monotonic() - started:.0f} s, python -m tests.torture: {command})")
        print(f"    {said}", flush=True)
    return failed


def _notes(exc: BaseException) -> str:
    """What hypothesis adds: the histories that it found."""
    parts: Sequence[BaseException] = getattr(exc, "exceptions", ())
    notes: Sequence[str] = getattr(exc, "__notes__", ())
    return "\n    ".join([*(f"{part!r}\n    {_notes(part)}" for part in parts), *notes])


if __name__ == "__main__":
    sys.exit(main())

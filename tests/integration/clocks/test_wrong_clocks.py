"""Processes whose wall clocks differ, or are set while a request is under way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from redis_sessions import generate_key
from tests.support import ROOT

DAY = 24 * 3600


class Process:
    """A worker, by its pipes."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.clocks.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
            )

    def __call__(self, command: str, *arguments: Any) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=20)


Start = Callable[..., Process]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the workers log, since the test began."""
    return tmp_path_factory.mktemp("clocks") / "log"


@pytest.fixture(scope="module")
def processes(log: Path) -> Iterator[tuple[Process, ...]]:
    with Process(log) as one, Process(log) as other:
        yield one, other


@pytest.fixture
def start(
    redis_url: str, prefix: str, log: Path, processes: tuple[Process, ...]
) -> Iterator[Start]:
    """Have a worker begin anew, whose wall clock is ahead by so many seconds."""
    log.write_text("")  # they append to it
    key, idle = generate_key(), list(processes)

    def start(ahead: float = 0) -> Process:
        process = idle.pop()
        process("begin", ahead, redis_url, prefix, key)
        return process

    yield start
    for process in processes[len(idle) :]:
        process("end")


@pytest.mark.parametrize("ahead", [40, -40, 4000])
def test_a_replaced_token_begins_no_session_in_a_process_with_another_time(
    start: Start, ahead: float
) -> None:
    """The write of a request that was under way during a rotation is dropped there, too."""
    right, wrong = start(), start(ahead)
    right("load", None)
    _, old = right("commit", {"cart": 1})
    right("load", old)
    right("rotate")
    assert wrong("load", old) == {}
    assert wrong("commit", {"cart": 2}) == ["DROP", None]


@pytest.mark.parametrize("ahead", [40, -40, 600])
def test_a_process_with_another_time_knows_how_long_ago_a_user_signed_in(
    start: Start, ahead: float
) -> None:
    """`fresh()` compares the server's time with the server's time."""
    right, wrong = start(), start(ahead)
    right("load", None)
    _, token = right("commit", {"user_id": "ann"})
    assert wrong("load", token) == {"user_id": "ann"}
    assert -10 < wrong("since") < 10


@pytest.mark.parametrize("ahead", [8 * DAY, -8 * DAY])
def test_sessions_live_as_long_by_each_process(start: Start, ahead: float) -> None:
    """Nobody is signed out because one process is days ahead, or wrote while it was behind."""
    right, wrong = start(), start(ahead)
    right("load", None)
    _, token = right("commit", {"user_id": "ann"})
    assert wrong("load", token) == {"user_id": "ann"}
    wrong("load", None)
    _, token = wrong("commit", {"user_id": "ann"})
    assert right("load", token) == {"user_id": "ann"}


def test_a_clock_that_is_set_back_moves_no_session(start: Start) -> None:
    """After a step of the wall clock a process agrees with the others all the same."""
    right, stepped = start(), start()
    stepped("load", None)
    stepped("step", 8 * DAY)
    right("load", None)
    _, token = right("commit", {"user_id": "ann"})
    assert stepped("load", token) == {"user_id": "ann"}


def test_a_step_back_lets_no_sign_in_past_a_revocation(start: Start) -> None:
    """A password that was checked before `revoke_all` signs nobody in after it."""
    stepped, revoking = start(), start()
    stepped("load", None)
    revoking("revoke_all", "ann")
    stepped("step", -60)
    assert stepped("commit", {"user_id": "ann"}) == ["REFUSED", None]
    assert revoking("listed", "ann") == []


def test_a_step_back_lets_no_sign_in_past_another_requests_revocation(start: Start) -> None:
    """Who revokes and signs in counts from their own `revoke_all`, however the clock is set."""
    stepped, revoking = start(), start()
    stepped("load", None)
    stepped("revoke_all", "ann")
    revoking("revoke_all", "ann")
    stepped("step", -60)
    assert stepped("commit", {"user_id": "ann"}) == ["REFUSED", None]


@pytest.mark.parametrize(("ahead", "told"), [(40, True), (-40, True), (0, False)])
def test_a_clock_that_is_off_is_logged_once(
    start: Start, log: Path, ahead: float, told: bool
) -> None:
    """One line names both times, and what to do."""
    wrong = start(ahead)
    wrong("load", None)
    _, token = wrong("commit", {"cart": 1})
    wrong("load", token)
    lines = log.read_text().splitlines()
    assert len(lines) == told
    assert all("NTP" in line for line in lines)

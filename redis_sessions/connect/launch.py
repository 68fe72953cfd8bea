"""Starts the process of a server, and waits until it answers.

Every server that this project starts is started here: the embedded one, those of
`redis_sessions.testing.topology`, and those of the tests.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

__all__ = ["LaunchError", "launch", "launch_error", "start", "wait_until_it_answers"]

TIMEOUT: Final = 30.0  # seconds
_POLL: Final = 0.01


class LaunchError(RuntimeError):
    """A server ended, or didn't answer in time. The message has the end of its log."""


def launch(
    command: Sequence[str], log: Path, answers: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    """Start a process, and return once `answers()` is true. `LaunchError` if that fails.

    The process writes to `log`.
    """
    process = start(command, log)
    try:
        wait_until_it_answers(command[0], log, answers, lambda: process.poll() is None)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def start(
    command: Sequence[str],
    log: Path,
    *,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    start_new_session: bool = False,
    process_group: int | None = None,
) -> subprocess.Popen[bytes]:
    """The first half of `launch`: several servers may be started before they are waited for.

    The options are those of `subprocess.Popen`.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            start_new_session=start_new_session,
            process_group=process_group,
        )


def wait_until_it_answers(
    name: str,
    log: Path,
    answers: Callable[[], bool],
    lives: Callable[[], bool],
    timeout: float = TIMEOUT,
) -> None:
    """The second half of `launch`: `LaunchError` once `lives()` is false, or after `timeout`."""
    deadline = time.monotonic() + timeout
    while not answers():
        if not lives() or time.monotonic() > deadline:
            raise launch_error(name, log)
        time.sleep(_POLL)


def launch_error(name: str, log: Path) -> LaunchError:
    """The error for a process that didn't start."""
    lines = log.read_text(errors="replace").splitlines()
    return LaunchError("\n".join([f"{name} did not start:", *lines[-10:]]))

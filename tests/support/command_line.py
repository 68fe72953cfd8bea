"""The command line, run in this process, as a shell would see it."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple
from unittest.mock import patch

from redis_sessions.cli import run

__all__ = ["Result", "command"]


class Result(NamedTuple):
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


class _Stream(StringIO):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal


def command(*args: str, stdin: str = "", terminal: bool = False, **environment: str) -> Result:
    """`redis-sessions` with these arguments, this input, and these variables beside the others.

    `terminal`: whether input and output look like one. In an async test call it with
    `asyncio.to_thread`, since it runs an event loop of its own.
    """
    given, out, err = _Stream(stdin), _Stream(), _Stream()
    for stream in (given, out, err):
        stream.terminal = terminal
    with (
        patch.dict("os.environ", environment),
        patch.object(sys, "stdin", given),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        status = run(args)
    return Result(status, out.getvalue(), err.getvalue())

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


def command(*args: str, stdin: str = "", **environment: str) -> Result:
    """`redis-sessions` with these arguments, this input, and these variables beside the others.

    In an async test call it with `asyncio.to_thread`, since it runs an event loop of its own.
    """
    out, err = StringIO(), StringIO()
    with (
        patch.dict("os.environ", environment),
        patch.object(sys, "stdin", StringIO(stdin)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        status = run(args)
    return Result(status, out.getvalue(), err.getvalue())

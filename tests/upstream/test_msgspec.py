"""What msgspec does wrong, as far as it concerns us, and that we live with it."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tests.support import ROOT

SCRIPT = """
import sys
from redis_sessions.session.values import Values
from tests.upstream.msgspec_enc_hook import change_meanwhile

def encode(data, hook):
    return Values(max_size=65536, enc_hook=hook).encode(data)

sys.stdout.buffer.write(change_meanwhile(sys.argv[1], encode))
"""


@pytest.mark.parametrize("kind", ["list", "dict", "hook"])
def test_data_that_change_while_a_hook_runs_crash_nothing(kind: str) -> None:
    """They are stored as they were when they were encoded, in a process that lives on."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind],
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )

    assert (run.returncode, run.stderr) == (0, b"")
    assert msgspec.msgpack.decode(run.stdout) == {
        "a": ["encoded", *([n] for n in range(5000))],
        "b": [1],
    }

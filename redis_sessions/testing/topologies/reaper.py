"""Ends a topology's processes when the one that started them is gone, however it ended.

Run as a script, without the package: `reaper.py DIRECTORY`. The servers are in its process group;
its standard input is a pipe that ends with whoever started it. An ordinary end needs none of this.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys


def main(directory: str) -> None:
    """Wait for the end of standard input; kill the group, then remove the directory."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    group = os.getpgrp()
    if os.fork():
        signal.pause()  # the group is there as long as its leader is
        return
    os.setpgid(0, 0)
    os.killpg(group, signal.SIGKILL)
    while os.path.exists(directory):  # noqa: PTH110 - a dying server may still make a file
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])

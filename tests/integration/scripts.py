"""A script in a process of its own, which uses one store, and where any warning is an error."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.support import ROOT

HEAD = """
import asyncio, gc, logging, multiprocessing, os, sys
# -X dev has asyncio tell of callbacks that a busy machine makes slow.
logging.getLogger("asyncio").setLevel(logging.ERROR)
from redis_sessions import Keyring, RedisStore, SessionManager

manager = SessionManager(RedisStore(sys.argv[1]), Keyring("abcdefgh" * 4))

async def write(value, token=None):
    session = await manager.load(token)
    session["value"] = value
    answer = await manager.commit(session)
    return token if answer.token is None else answer.token.value

async def read(token):
    return (await manager.load(token)).get("value")

def in_child(function, *arguments):
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    child.join(20)
    assert child.exitcode == 0, child.exitcode
"""


def run_script(url: str, body: str) -> None:
    """Run it behind `HEAD`; it fails if it says anything."""
    script = HEAD + textwrap.dedent(body) + "\nprint('done')\n"
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", script, url]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0), done.stderr
    assert done.stdout == "done\n"

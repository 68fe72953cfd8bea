"""What tests of every kind share. Each module here says what it is for.

- `servers` starts one real Redis or Valkey; `deployments` has the URL of each topology.
- `proxy` is a network that fails on command. `redis_wire` looks into a server without any client.
- `asgi` asks an application by raw ASGI; `site` is an application for it.
- `apps` has applications that are asked over HTTP.
- `stores` has a store in memory that fails, waits or forgets; `index_script` changes the index's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from redis_sessions.session.keyring import SecretKey

VENV: Final = Path(sys.prefix)
ROOT: Final = Path(__file__).parents[2]

LOOPS: Final = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
"""For tests on both event loops: `@pytest.mark.parametrize("anyio_backend", LOOPS)`."""


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it came true in time: of what happens by other processes' clocks."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def sealing_key(key: SecretKey, context: bytes, token: str, salt: bytes) -> bytes:
    """The 32-byte key of one record."""
    derivation = key.derivation(salt)
    derivation.update(context + token.encode())
    return derivation.digest()

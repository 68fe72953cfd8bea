"""How a store is refused over TLS, and what a server without it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redis_sessions import RedisStore, StoreUnavailableError
from redis_sessions.connect.health import AWAY
from redis_sessions.testing.topology import Node

STANDARD = pytest.mark.standard(31, "ASVS 12.3.1", "ASVS 12.3.2", "ASVS 12.3.3", "ASVS 12.3.4")

# How the server's end of a handshake shows depends on the moment.
CUT_OFF = r"(?i)certificate|unknown ca|closed|reset|lost"
NO_TLS = r"(?i)ssl|closed|reset|answer|timeout"  # it waits for the end of a line
OURS = {"client|setinfo", "info", "role"}  # what these tests ask a server themselves


def url_with(running: Any, **changes: str | Path | None) -> str:
    """The topology's URL with other options; None leaves one out."""
    options = {**running.certificates.client_arguments(), **changes}
    query = "&".join(f"{name}={value}" for name, value in options.items() if value is not None)
    return f"{running.url.partition('?')[0]}?{query}"


async def refused(source: Any, told: str, prefix: str = "session:") -> None:
    """The store can't be used, for this reason and from the first attempt to the last."""
    # A plain server says nothing until then; for a handshake a busy machine may need seconds.
    store = RedisStore(source, prefix=prefix, timeout=1.0 if told == NO_TLS else 2.5)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=told) as caught:
            await store.connect()
        assert caught.value.reason in AWAY
    await store.close()


def commands_to(node: Node) -> set[str]:
    """What this server was ever told."""
    return {name.removeprefix("cmdstat_") for name in node.ask("INFO", "commandstats")}

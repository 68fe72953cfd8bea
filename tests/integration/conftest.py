"""A server of the test's own, and a network before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy
from tests.support.servers import Server, StartServer


@pytest.fixture
def behind(start_server: StartServer) -> Server:
    """What is behind the proxy."""
    return start_server()


@pytest.fixture
def proxy(behind: Server) -> Iterator[Proxy]:
    with Proxy(behind.port) as proxy:
        yield proxy

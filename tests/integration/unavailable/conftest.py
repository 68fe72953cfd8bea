"""A server to take away, and a manager on it."""

from __future__ import annotations

import pytest

from redis_sessions import SessionManager
from tests.integration.unavailable.outages import TIMEOUT
from tests.support.apps import manager_on
from tests.support.servers import Server, StartServer


@pytest.fixture
def private(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def manager(private: Server) -> SessionManager:
    return manager_on(private.url, timeout=TIMEOUT)

"""Cancelled requests disturb nobody; `python -m tests.torture` has the long version."""

from __future__ import annotations

import pytest

from tests.support import LOOPS
from tests.support.servers import StartServer
from tests.torture import cancellation


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_requests_cancelled_at_random(start_server: StartServer) -> None:
    """Nobody sees another's data, nothing hangs, no connection is lost, and all go on working."""
    result = await cancellation.run(start_server().url, 2000)
    assert result.outcomes["cancelled"] > 100
    assert result.outcomes["answered"] > 100
    assert result.outcomes["left"] > 10
    assert result.outcomes.total() == 2000
    assert result.commands_after == cancellation.SESSIONS

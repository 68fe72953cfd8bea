"""The setting of crossing requests."""

from __future__ import annotations

import pytest

from tests.unit.concurrent_requests.delayed_store import Crossed


@pytest.fixture
def at() -> Crossed:
    return Crossed()

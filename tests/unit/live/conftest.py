"""The setting of connections that stay open."""

from __future__ import annotations

import pytest

from tests.unit.live.live import Live


@pytest.fixture
def at() -> Live:
    return Live()

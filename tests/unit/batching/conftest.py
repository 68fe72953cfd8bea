"""The batcher of each test."""

from __future__ import annotations

import pytest

from tests.unit.batching.sending import Sending


@pytest.fixture
async def at() -> Sending:
    return Sending()

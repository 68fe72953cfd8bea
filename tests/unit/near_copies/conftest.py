"""What the tests of near copies share."""

from __future__ import annotations

import pytest

from tests.unit.near_copies.near import Processes


@pytest.fixture
def at() -> Processes:
    return Processes()

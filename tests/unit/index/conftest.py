"""The setting of the principal's index."""

from __future__ import annotations

import pytest

from tests.unit.index.watched_store import Watching


@pytest.fixture
def at() -> Watching:
    return Watching()

"""The setting of the HTTP edge."""

from __future__ import annotations

import pytest

from tests.unit.edge.edge import Edge


@pytest.fixture
def at() -> Edge:
    return Edge()

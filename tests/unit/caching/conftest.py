"""A cache that is never early, unless a test says so."""

from __future__ import annotations

import random

import pytest

from tests.unit.caching.setting import Kept


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr(random, "random", lambda: 0.0)
    return Kept()

"""The tokens that a test's requests draw."""

from __future__ import annotations

import pytest

from redis_sessions import SessionToken
from tests.unit.tracebacks.troubled_request import recorded_tokens


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[SessionToken]:
    """All tokens that are drawn."""
    return recorded_tokens(monkeypatch)

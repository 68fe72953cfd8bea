from __future__ import annotations

import pytest

from redis_sessions import SessionToken


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[SessionToken]:
    """All tokens that are drawn."""
    return recorded_tokens(monkeypatch)


def recorded_tokens(monkeypatch: pytest.MonkeyPatch) -> list[SessionToken]:
    drawn: list[SessionToken] = []
    generate = SessionToken.generate

    def recorded(id: str | None = None) -> SessionToken:
        drawn.append(generate(id))
        return drawn[-1]

    monkeypatch.setattr(SessionToken, "generate", recorded)
    return drawn

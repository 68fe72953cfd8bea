"""A setting, or a manager alone, over a store in memory."""

from __future__ import annotations

import pytest

from redis_sessions import Keyring, MemoryStore, SessionManager, generate_key
from tests.unit.setting import Setting


@pytest.fixture
def at() -> Setting:
    return Setting()


@pytest.fixture
def manager() -> SessionManager:
    return SessionManager(MemoryStore(), Keyring(generate_key()))

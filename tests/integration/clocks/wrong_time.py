"""A process whose wall clock is wrong."""

from __future__ import annotations

import time

import pytest

from redis_sessions import RedisStore

OFF = 300.0


def set_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set this process's wall clock, which the servers don't share."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + OFF)


def error(store: RedisStore) -> float:
    """By how much the store's time is that of this process, which is wrong by `OFF`."""
    return store.server_clock.now() - (time.time() - OFF)


BEHIND = "behind"
"""The key, after the prefix, by whose seconds `server_time` is behind."""


def server_time(prefix: str) -> tuple[str, str]:
    """For `index_script`: the index's clock is behind the server's by what a key says."""
    behind = f"(redis.call('GET', '{prefix}{BEHIND}') or 0)"
    wrong = f"(function(t) return {{t[1] - {behind}, t[2]}} end)(redis.call('TIME'))"
    return "redis.call('TIME')", wrong

"""The servers' time, and the note of keys, on every deployment, with the application's rights."""

from __future__ import annotations

import pytest

from redis_sessions import ConfigurationError, Keyring, RedisStore, SessionManager, generate_key
from redis_sessions.lifecycle.manager import backend_of
from tests.integration.clocks.wrong_time import OFF, error, set_wrong
from tests.support.deployments import Deployment


async def test_the_time_is_the_servers(
    monkeypatch: pytest.MonkeyPatch, deployment: Deployment, prefix: str
) -> None:
    """Of one server or of many nodes: known before the first of them answers anything else."""
    set_wrong(monkeypatch)
    store = RedisStore(deployment.url, prefix=prefix, **deployment.options)
    for number in range(8):  # on several nodes
        await store.load(f"{number}" * 20)
        assert error(store) == pytest.approx(0, abs=OFF / 10)
    await store.close()


async def test_keys_are_noted(deployment: Deployment, prefix: str) -> None:
    """Whoever has another one, and finds nobody, is told."""
    mine, other = (
        SessionManager(
            RedisStore(deployment.url, prefix=prefix, **deployment.options), Keyring(generate_key())
        )
        for _ in range(2)
    )
    await mine.connect()
    await backend_of(mine).key_notes.renew()
    assert await mine.revoke_all("ann") == 0
    with pytest.raises(ConfigurationError):
        await other.revoke_all("ann")
    for manager in (mine, other):
        await manager.close()

"""The demo of docker-compose.yml: it runs with the rights that its user has."""

from __future__ import annotations

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError
from starlette.testclient import TestClient

from redis_sessions import RedisStore, SessionManager, generate_key
from redis_sessions.demo import KEY_VARIABLE, STORE_VARIABLE, from_environment
from redis_sessions.testing import store_session
from tests.support import ROOT
from tests.support.servers import StartServer

DEPLOY = ROOT / "deploy"


async def test_demo_has_its_rights(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's user does all that the demo does, and reaches no application's sessions."""
    users, config = str(DEPLOY / "demo" / "users.acl"), DEPLOY / "redis" / "redis.conf"
    server = start_server("--aclfile", users, kind="redis", config=config)
    url = f"redis://demo:development@127.0.0.1:{server.port}/0"
    monkeypatch.setenv(KEY_VARIABLE, generate_key())
    monkeypatch.setenv(STORE_VARIABLE, url)
    with TestClient(from_environment(), "http://localhost") as browser:
        assert browser.get("/").status_code == 200
    store = RedisStore(f"{url}?client_cache=1", prefix="demo:1:")
    manager = SessionManager(store, generate_key())
    await store_session(manager, {"user_id": 1})
    assert await manager.revoke_all(1) == 1
    await manager.close()

    with Redis.from_url(url) as client:
        assert client.info("commandstats")
        assert client.publish("demo:1:devices", b"") == 0
        assert client.set("demo:1:plain:x", b"{}", ex=60)
        assert client.getdel("demo:1:plain:x") == b"{}"
        for forbidden in ("GET session:x", "KEYS *", "FLUSHALL", "CONFIG GET dir", "SHUTDOWN"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden.split())

"""deploy/redis: what the application's user may do there, and nobody else."""

import hashlib
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

from tests.support import ROOT, Server, StartServer

PASSWORD = "development"
DEPLOY = ROOT / "deploy" / "redis"


@pytest.fixture
def deployed(start_server: StartServer) -> Server:
    users = str(DEPLOY / "users.acl")
    return start_server("--aclfile", users, kind="redis", config=DEPLOY / "redis.conf")


def connect(server: Server, username: str | None = None, password: str | None = None) -> Redis:
    return Redis(
        port=server.port,
        username=username,
        password=password,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
    )


@pytest.fixture
def app(deployed: Server) -> Iterator[Redis]:
    with connect(deployed, username="app", password=PASSWORD) as client:
        yield client


def test_nobody_without_a_password(deployed: Server) -> None:
    """The default user is off."""
    with connect(deployed) as client, pytest.raises(AuthenticationError):
        client.get("session:x")


def test_password_is_the_documented_one() -> None:
    """The hash in users.acl is that of the development password."""
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()

    assert f"#{digest}" in (DEPLOY / "users.acl").read_text().split()


def test_health_check_can_only_ping(deployed: Server) -> None:
    """The health check's user reads nothing."""
    with connect(deployed, username="health", password="any") as client:
        assert client.ping()
        with pytest.raises(NoPermissionError):
            client.get("session:x")


def test_app_does_its_work(app: Redis) -> None:
    """Records, the index and their scripts are open to the application."""
    key = "session:x"
    assert app.set(key, b"record", px=10_000)
    assert app.mget([key, "session:y"]) == [b"record", None]
    assert app.getrange(key, 0, 2) == b"rec"
    assert app.pexpire(key, 20_000)
    script = """
        redis.call('TIME')
        redis.call('HSET', KEYS[1], 'id', 'entry')
        redis.call('PEXPIRE', KEYS[1], 10000)
        return redis.call('HGETALL', KEYS[1])
    """
    sha = app.script_load(script)
    assert app.evalsha(sha, 1, "session:of:x") == [b"id", b"entry"]
    assert app.info("memory")["maxmemory_policy"] == "noeviction"
    assert app.wait(0, 1) == 0


@pytest.mark.standard(32, "ASVS 13.2.1", "ASVS 13.2.2", "ASVS 13.2.3")
def test_app_has_its_own_keys_only(app: Redis) -> None:
    """Other applications' keys are out of reach, for scripts too."""
    with pytest.raises(NoPermissionError):
        app.get("other:x")
    with pytest.raises(NoPermissionError):
        app.eval("return redis.call('GET', KEYS[1])", 1, "other:x")


@pytest.mark.standard(32, "ASVS 13.2.1", "ASVS 13.2.2", "ASVS 13.2.3")
@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "KEYS *", "SCAN 0", "CONFIG GET dir", "ACL LIST", "SHUTDOWN"],
)
def test_app_has_no_other_commands(app: Redis, command: str) -> None:
    """The application can neither list the sessions nor change the server."""
    with pytest.raises(NoPermissionError):
        app.execute_command(*command.split())


def test_writes_survive_a_restart(deployed: Server) -> None:
    """The append-only file brings the sessions back."""
    with connect(deployed, username="app", password=PASSWORD) as client:
        client.set("session:x", b"record", px=60_000)
    deployed.stop()
    deployed.start()
    with connect(deployed, username="app", password=PASSWORD) as client:
        assert client.get("session:x") == b"record"

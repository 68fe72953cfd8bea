"""deploy/: what is there runs, and the application's user may do its work, and nobody else."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry
from starlette.testclient import TestClient

from redis_sessions import generate_key
from redis_sessions.errors import ConfigurationError
from redis_sessions.testing.topologies.processes import HOST, Processes, wait_until
from redis_sessions.testing.topologies.replication import BRISK, SERVICE
from redis_sessions.testing.topology import ClusterTopology, Node, SentinelTopology, Topology
from tests.support import ROOT
from tests.support.servers import Server, StartServer

PASSWORD = "development"
DEPLOY = ROOT / "deploy"
IN_IMAGE = "/usr/local/etc/redis/"
APP: dict[str, Any] = {"username": "app", "password": PASSWORD}


class Deployment:
    """docker-compose.yml without containers: a service's files and its command, on this machine."""

    def __init__(self, processes: Processes, services: Mapping[str, Any]) -> None:
        self._processes = processes
        self._services = services
        self._names: dict[str, str] = {}

    def replace(self, old: str, new: str) -> None:
        """Write `new` for what is only in the containers, in files and commands."""
        self._names[old] = new

    def add(self, service: str, client: dict[str, Any], **options: Any) -> Node:
        """The service's server, not started yet, on a port of its own."""
        described = self._services[service]
        mounted = self._processes.directory / f"{service}-etc"
        mounted.mkdir()
        for mount in described["volumes"]:
            if mount["type"] == "bind":
                file = mounted / Path(mount["target"]).name
                shutil.copy(mount["source"], file)
                file.write_text(self._replaced(file.read_text(), mounted))
        command = [self._replaced(part, mounted) for part in described["command"]]
        own = "include node.conf"  # the port
        command += [f"--{own}"] if command[0] == "redis-server" else [own]
        return self._processes.add(service, client=client, command=command, **options)

    def health_check(self, service: str, node: Node) -> str:
        """What the service's health check says of this node."""
        *check, ping = self._services[service]["healthcheck"]["test"][1:]
        arguments = [self._replaced(part, Path()) for part in check]
        return run(*arguments, "-p", str(node.port), ping)

    def _replaced(self, text: str, mounted: Path) -> str:
        for old, new in {**self._names, IN_IMAGE: f"{mounted}/"}.items():
            text = text.replace(old, new)
        return text


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def deployed(start_server: StartServer) -> Server:
    users = str(DEPLOY / "redis" / "users.acl")
    return start_server("--aclfile", users, kind="redis", config=DEPLOY / "redis" / "redis.conf")


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

    assert f"#{digest}" in (DEPLOY / "redis" / "users.acl").read_text().split()


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
        return redis.call('HMGET', KEYS[1], 'id', 'meta')
    """
    sha = app.script_load(script)
    assert app.evalsha(sha, 1, "session:of:x") == [b"entry", None]
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
        wait_until(lambda: "" if client.ping() else "no answer")  # it loads the file
        assert client.get("session:x") == b"record"


def test_application_does_its_work(deployed: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """deploy/app runs with the rights of `app`: it counts, signs in, lists sessions, signs out."""
    monkeypatch.setenv("SESSION_SECRET_KEY", generate_key())
    monkeypatch.setenv("SESSION_STORE", f"redis://app:{PASSWORD}@{HOST}:{deployed.port}/0")
    application = runpy.run_path(str(DEPLOY / "app" / "app.py"))["create_app"]()
    with TestClient(application) as client:
        assert client.get("/health").json() == "ok"
        assert client.get("/sessions").status_code == 401
        assert [client.get("/").json()["visits"] for _ in range(2)] == [1, 2]
        signed_in = client.post("/sign-in", json={"name": "Ada"})
        assert signed_in.json() == {"visits": 2, "user_id": "Ada"}
        assert client.get("/sessions").json() == 1
        assert client.post("/sign-out").status_code == 200
        assert client.get("/sessions").status_code == 401


def test_application_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SESSION_SECRET_KEY it doesn't start."""
    monkeypatch.setenv("SESSION_SECRET_KEY", "")
    monkeypatch.setenv("SESSION_STORE", "redis://localhost:6379/0")
    application = runpy.run_path(str(DEPLOY / "app" / "app.py"))["create_app"]()
    with pytest.raises(ConfigurationError, match="secret key"), TestClient(application):
        pass


def rights(path: Path) -> dict[str, set[str]]:
    return {line.split()[1]: set(line.split()[2:]) for line in path.read_text().splitlines()}


def test_users_are_the_same_everywhere() -> None:
    """What `app` and `health` may do is the same with Sentinel, and with Cluster a little more."""
    single = rights(DEPLOY / "redis" / "users.acl")
    watched = rights(DEPLOY / "sentinel" / "users.acl")
    clustered = rights(DEPLOY / "cluster" / "users.acl")
    with_demo = rights(DEPLOY / "demo" / "users.acl")

    assert {name: with_demo[name] for name in single} == single
    assert {name: watched[name] for name in single} == single
    assert {name: clustered[name] for name in ("default", "health")} == {
        name: single[name] for name in ("default", "health")
    }
    assert clustered["app"] - single["app"] == {
        "+cluster|slots",
        "+asking",
        "+readonly",
        *("+spublish", "+ssubscribe", "+sunsubscribe"),
    }
    assert single["app"] - clustered["app"] == {"+publish", "+subscribe", "+unsubscribe"}


# As a container starts them, but for addresses and paths


@pytest.fixture
def services(docker_compose: Path) -> dict[str, Any]:
    """The services of all profiles."""
    file = str(ROOT / "docker-compose.yml")
    said = run(str(docker_compose), "-f", file, "--profile", "*", "config", "--format", "json")
    described: dict[str, Any] = json.loads(said)["services"]
    return described


@pytest.fixture
def processes(
    redis_binary: Path, redis_cli: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Processes]:
    """Where the servers run; on PATH there are Redis itself and its redis-cli."""
    path = [str(redis_binary.parent), str(redis_cli.parent), "/usr/bin", "/bin"]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    with Processes(redis_binary) as processes:
        yield processes


@pytest.fixture
def deployment(processes: Processes, services: dict[str, Any]) -> Deployment:
    return Deployment(processes, services)


def test_single_is_well(deployment: Deployment) -> None:
    """The server starts as the container does, and its health check finds it well."""
    node = deployment.add("redis", APP)
    node.start()
    assert deployment.health_check("redis", node) == "PONG\n"


def test_sentinels_watch(deployment: Deployment) -> None:
    """The servers replicate, the Sentinels fail over, and each remembers it when it restarts."""
    watcher = {"username": "sentinel", "password": PASSWORD}
    peer = {"username": "peer", "password": PASSWORD}
    first = deployment.add("sentinel-redis-1", watcher)
    deployment.replace("sentinel-redis-1 6379", first.address.replace(":", " "))
    for number in (1, 2, 3):
        deployment.replace(f"announce-ip sentinel-{number}", f"announce-ip {HOST}")
        deployment.replace(f"announce-ip sentinel-redis-{number}", f"announce-ip {HOST}")
    servers = [first, *(deployment.add(f"sentinel-redis-{n}", watcher) for n in (2, 3))]
    sentinels = [deployment.add(f"sentinel-{n}", peer, setup=BRISK) for n in (1, 2, 3)]
    for node in servers:
        node.start()
    Topology(servers, "").wait_ready()  # before the Sentinels look for replicas
    for node in sentinels:
        node.start()
    topology = SentinelTopology(servers, sentinels)
    topology.wait_ready()
    assert deployment.health_check("sentinel-1", sentinels[0]) == "PONG\n"

    new = topology.failover()
    with new.connect(**APP) as client:
        assert client.set("session:x", b"record", px=60_000)
        assert client.wait(2, 10_000) == 2
    for node in (new, sentinels[0]):
        node.stop()
        node.start()
    topology.wait_ready()

    assert new is not first
    assert topology.primary is new
    with new.connect(**APP) as client:
        assert client.get("session:x") == b"record"


def test_sentinels_only_say_where_the_primary_is(deployment: Deployment) -> None:
    """Without a password one can ask for the primary, and not change what is watched."""
    deployment.replace("sentinel-redis-1 6379", f"{HOST} 1")
    node = deployment.add("sentinel-1", {"username": "peer", "password": PASSWORD})
    node.start()

    with node.connect(username=None, password=None) as client:
        assert client.ping()
        assert client.sentinel_get_master_addr_by_name(SERVICE) == (HOST.encode(), 1)
        assert list(client.sentinel_masters()) == [SERVICE]
        assert client.sentinel_slaves(SERVICE) == []
        for forbidden in (
            f"SENTINEL FAILOVER {SERVICE}",
            f"SENTINEL SET {SERVICE} quorum 1",
            f"SENTINEL REMOVE {SERVICE}",
            "ACL LIST",
            "PUBLISH __sentinel__:hello x",
            "SHUTDOWN",
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden.split())


def test_cluster_is_made_once(deployment: Deployment) -> None:
    """create.sh makes a Cluster that fails over; `app` reaches its keys in all of it."""
    operator = {"username": "operator", "password": PASSWORD}
    nodes = [deployment.add(f"cluster-{n}", operator) for n in range(1, 7)]
    for node in nodes:
        node.start()
    create = [str(DEPLOY / "cluster" / "create.sh"), *(node.address for node in nodes)]
    said = [run(*create, REDISCLI_AUTH=PASSWORD) for _ in range(2)]
    topology = ClusterTopology(nodes, 3)
    topology.wait_ready()

    assert "All 16384 slots covered" in said[0]
    assert said[1] == "It is a Cluster already.\n"
    assert len(topology.primaries) == 3
    (replica,) = topology.replicas_of(topology.slot_owner("session:x"))
    topology.failover(replica)
    for key in (f"session:{number}" for number in range(20)):
        with topology.slot_owner(key).connect(**APP) as client:
            assert client.set(key, b"record", px=60_000)
            sha = client.script_load("return redis.call('GET', KEYS[1])")
            assert client.evalsha(sha, 1, key) == b"record"
            with pytest.raises(NoPermissionError):
                client.get("other:x")
    with replica.connect(**APP) as direct:
        for forbidden in ("CLUSTER FAILOVER", "CLUSTER FORGET x", "CLUSTER RESET"):
            with pytest.raises(NoPermissionError):
                direct.execute_command(*forbidden.split())


def test_tls_wants_a_certificate_of_ours(
    deployment: Deployment, openssl: Path, tmp_path: Path
) -> None:
    """certificates.sh makes what the server and a client need, and keeps it the next time."""
    there, here = tmp_path / "server", tmp_path / "client"
    made: list[bytes] = []
    for directory in (there, here):
        directory.mkdir()
    for _ in range(2):
        run(str(DEPLOY / "tls" / "certificates.sh"), str(there), str(here), "tls-redis")
        made.append((here / "client.pem").read_bytes())
    arguments: dict[str, Any] = {
        **APP,
        "ssl": True,
        "ssl_ca_certs": str(here / "ca.pem"),
        "ssl_certfile": str(here / "client.pem"),
        "ssl_keyfile": str(here / "client.key"),
    }
    deployment.replace("/tls/", f"{there}/")
    node = deployment.add("tls-redis", arguments, tls=True)
    node.start()

    assert made[0] == made[1]
    assert {path.name for path in there.iterdir()} == {"ca.pem", "server.key", "server.pem"}
    assert {path.name for path in here.iterdir()} == {"ca.pem", "client.key", "client.pem"}
    with node.connect() as client:
        assert client.set("session:x", b"record")
    without = node.connect(ssl_certfile=None, ssl_keyfile=None)
    with without as client, pytest.raises(RedisError):
        client.ping()
    assert deployment.health_check("tls-redis", node) == "PONG\n"

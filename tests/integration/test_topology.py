"""The servers that tests and developers start: they work, and they break as asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis, RedisCluster, Sentinel
from redis.exceptions import AuthenticationError, RedisError

from redis_sessions.testing import Clock
from redis_sessions.testing import topology as topologies
from redis_sessions.testing.topologies.processes import wait_until
from redis_sessions.testing.topologies.replication import SERVICE, USERS
from redis_sessions.testing.topology import ClusterTopology, TopologyError
from tests.support import ROOT


def test_single_answers(server_binary: Path) -> None:
    """A URL for redis-py, a process and a port."""
    with topologies.single(server=server_binary) as single, Redis.from_url(single.url) as client:
        assert client.set("a", b"1")
        assert client.info("server")["process_id"] == single.primary.pid
        assert single.primary.role() == "primary"
        assert single.replicas == []


def test_node_comes_back_with_its_file(server_binary: Path) -> None:
    """Stopped and started again it has its port, and with the append-only file its data."""
    with topologies.single(server=server_binary, append_only=True) as single:
        node = single.primary
        node.ask("SET", "a", "1")
        before = node.port, node.pid
        node.stop()
        assert not node.running
        with pytest.raises(TopologyError, match="no primary"):
            single.primary  # noqa: B018 - it asks
        node.start()

        assert node.ask("GET", "a") == "1"
        assert node.port == before[0]
        assert node.pid != before[1]


def test_paused_node_is_silent(server_binary: Path) -> None:
    """A paused server takes the connection and says nothing until it is resumed."""
    with topologies.single(server=server_binary) as single:
        node = single.primary
        node.pause()
        assert not node.running
        with node.connect(socket_timeout=0.1) as client, pytest.raises(RedisError):
            client.ping()
        node.resume()
        assert node.ask("PING")


def test_options_reach_the_configuration(server_binary: Path) -> None:
    """A line of the configuration can be given."""
    options = {"maxmemory": "10mb", "maxmemory-policy": "noeviction"}
    with topologies.single(server=server_binary, options=options) as single:
        assert int(single.primary.ask("INFO", "memory")["maxmemory"]) == 10 * 1024 * 1024


def test_replicas_follow(replicas_topology: topologies.Topology, prefix: str) -> None:
    """What the primary is told, both replicas have."""
    primary, others = replicas_topology.primary, replicas_topology.replicas
    with Redis.from_url(replicas_topology.url) as client:
        client.set(f"{prefix}a", b"1")
        assert client.wait(2, 10_000) == 2

    assert [node.role() for node in (primary, *others)] == ["primary", "replica", "replica"]
    assert [node.ask("GET", f"{prefix}a") for node in others] == ["1", "1"]


def test_replica_that_starts_late_is_waited_for(server_binary: Path) -> None:
    """`wait_ready` returns once a replica that was away has caught up."""
    with topologies.replicas(1, server=server_binary) as both:
        replica = both.replicas[0]
        replica.kill()
        both.primary.ask("SET", "a", "1")
        replica.start()
        both.wait_ready()

        assert replica.ask("GET", "a") == "1"


def test_waiting_has_an_end(server_binary: Path) -> None:
    """What doesn't come is an error that says what it was."""
    with topologies.replicas(1, server=server_binary) as both:
        both.replicas[0].ask("REPLICAOF", "NO", "ONE")
        with pytest.raises(TopologyError, match="doesn't follow"):
            both.wait_ready(0.1)


@pytest.mark.parametrize(("each", "asked"), [(0.1, 301), (0.5, 241), (5, 25)])
def test_a_slow_machine_gets_more_time(
    each: float, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each look takes long there are as many of them, up to four times the time."""
    clock, looks = Clock(0), list[float]()
    stopped = SimpleNamespace(monotonic=clock, sleep=float)  # which takes no time
    monkeypatch.setattr("redis_sessions.testing.topologies.processes.time", stopped)

    def problem() -> str:
        clock.advance(each)
        looks.append(clock.now)
        return "it isn't ready"

    with pytest.raises(TopologyError, match="s: it isn't ready"):
        wait_until(problem, 30)
    assert abs(len(looks) - asked) <= 1


def test_tls_wants_certificates(tls_topology: topologies.TlsTopology) -> None:
    """The URL's certificates open it; without the client's it refuses, and so it does plainly."""
    node = tls_topology.primary
    with Redis.from_url(tls_topology.url) as client:
        assert client.ping()
    without = {"ssl_certfile": None, "ssl_keyfile": None}
    with node.connect(**without) as client, pytest.raises(RedisError):
        client.ping()
    with node.connect(ssl=False, **without) as client, pytest.raises(RedisError):
        client.ping()
    with node.connect(ssl_ca_certs=None) as client, pytest.raises(RedisError, match="CERTIFICATE"):
        client.ping()


def test_tls_without_client_certificates(tls_server_binary: Path) -> None:
    """Then the authority's certificate is all that a client needs."""
    with topologies.tls(server=tls_server_binary, client_certificates=False) as topology:
        assert "ssl_keyfile" not in topology.url
        with Redis.from_url(topology.url) as client:
            assert client.ping()


def test_acl_is_the_deployed_one(server_binary: Path) -> None:
    """The users are those of deploy/redis: the application's, and no default."""
    assert (ROOT / "deploy" / "redis" / "users.acl").read_text() == USERS
    with topologies.acl(server=server_binary) as topology:
        with Redis.from_url(topology.url) as client:
            assert client.set("session:x", b"1")
        anonymous = topology.primary.connect(username=None, password=None)
        with anonymous as client, pytest.raises(AuthenticationError):
            client.get("session:x")


# Failing over


def test_sentinels_promote_a_replica(server_binary: Path) -> None:
    """The primary killed, a replica takes over; the old one comes back and follows."""
    with topologies.sentinel(server=server_binary) as topology:
        old = topology.primary
        addresses = [("127.0.0.1", node.port) for node in topology.sentinels]
        client: Any = Sentinel(addresses).master_for(SERVICE)
        client.set("a", b"1")
        assert client.wait(2, 10_000) == 2
        old.kill()
        topology.wait_promoted(old)

        assert topology.primary is not old
        assert topology.primary.role() == "primary"
        assert client.get("a") == b"1"
        client.close()

        old.start()
        topology.wait_ready()
        assert old in topology.replicas


def test_sentinels_fail_over_when_told(server_binary: Path) -> None:
    """A switch that was asked for, with everybody alive; a Sentinel that is away doesn't matter."""
    with topologies.sentinel(replicas=1, server=server_binary) as topology:
        topology.sentinels[0].kill()
        old = topology.primary
        new = topology.failover()

        assert new is not old
        assert topology.primary is new
        assert topology.replicas == [old]


def test_cluster_answers(cluster_topology: ClusterTopology, prefix: str) -> None:
    """redis-py's client reaches all of it from the URL's addresses."""
    with cluster_client(cluster_topology) as client:
        for number in range(30):
            assert client.set(f"{prefix}{number}", b"1")
    owners = {cluster_topology.slot_owner(f"{prefix}{number}") for number in range(30)}
    assert owners == set(cluster_topology.primaries)
    assert cluster_topology.url.startswith("redis+cluster://127.0.0.1:")


def test_cluster_replica_takes_over(server_binary: Path) -> None:
    """A primary killed, its replica has the slots and the data; it comes back as a replica."""
    with topologies.cluster(server=server_binary) as topology:
        old = topology.slot_owner("a")
        (replica,) = topology.replicas_of(old)
        with old.connect() as client:
            client.set("a", b"1")
            assert client.wait(1, 10_000) == 1
        old.kill()
        topology.wait_promoted(replica)
        assert topology.slot_owner("a") is replica
        assert replica.ask("GET", "a") == "1"

        old.start()
        topology.wait_ready()
        assert topology.replicas_of(replica) == [old]

        topology.failover(old)
        assert topology.slot_owner("a") is old


def test_slots_move_under_load(server_binary: Path) -> None:
    """Slots move with their keys while a client writes, and no write is lost."""
    with topologies.cluster(replicas=0, server=server_binary) as topology:
        source = topology.slot_owner("{a}")
        target = next(node for node in topology.primaries if node is not source)
        with cluster_client(topology) as client:
            for number in range(250):  # more than one batch
                client.set(f"{{a}}{number}", b"\xff")
        slot = client.keyslot("{a}")
        slots = [s for s in range(slot - 5, slot + 5) if topology.slot_owner(s) is source]

        written, errors = _while_writing(
            topology, lambda: topology.move_slots(slots, source, target)
        )
        topology.wait_ready()

        assert errors == []
        assert slot in slots
        assert {topology.slot_owner(s) for s in slots} == {target}
        assert target.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 251
        assert source.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
        assert target.ask("GET", "{a}n") == str(written)


def cluster_client(topology: ClusterTopology) -> RedisCluster:
    return RedisCluster.from_url(f"redis://{topology.nodes[0].address}")


def _while_writing(topology: ClusterTopology, work: Callable[[], None]) -> tuple[int, list[str]]:
    """Count up `{a}n` from before the work to after it: the count, and what went wrong."""
    done, begun = threading.Event(), threading.Event()
    errors: list[str] = []
    count = 0

    def write() -> None:
        nonlocal count
        with cluster_client(topology) as client:
            while not done.is_set():
                try:
                    count = client.incr("{a}n")
                except RedisError as exc:
                    errors.append(repr(exc))
                begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(10)
        work()
    finally:
        done.set()
        writer.join(10)
    return count, errors

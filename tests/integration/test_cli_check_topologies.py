"""`redis-sessions check` on replicas, behind Sentinels, in a Cluster and over TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redis_sessions.cli.acl import Role, acl_line, rules, sentinel_rules
from redis_sessions.testing import topology as topologies
from redis_sessions.testing.topology import (
    ClusterTopology,
    SentinelTopology,
    TlsTopology,
    Topology,
)
from tests.integration.check_command import SECRET, check, levels
from tests.support import eventually
from tests.support.servers import StartServer, free_port


def test_replicas(replicas_topology: Topology, prefix: str) -> None:
    """The primary's replicas and how far they are behind."""
    found = levels(replicas_topology.url, "--prefix", prefix, status=1)
    assert found["replication"]["details"]["replicas"] == 2
    assert len(found["replication"]["details"]["lag_bytes"]) == 2

    hosts = ",".join(node.address for node in replicas_topology.nodes)
    url = f"redis://{hosts}/0?replicas=read"
    assert levels(url, "--prefix", prefix)["topology"]["text"] == "primaries: 1, replicas: 2"


def test_a_replica_that_is_away(replicas_topology: Topology, prefix: str) -> None:
    """It is a warning: nobody is without sessions."""
    nowhere = f"127.0.0.1:{free_port()}"
    url = f"redis://{replicas_topology.primary.address},{nowhere}/0?replicas=read"
    found = levels(url, "--prefix", prefix, status=1)
    assert (found["connection"]["level"], found["connection"]["server"]) == ("warn", nowhere)
    assert found["rights"]["level"] == "ok"


def test_a_replica_is_no_store(replicas_topology: Topology, prefix: str) -> None:
    """Whoever names a replica is told so, and the dry run fails."""
    found = levels(replicas_topology.replicas[0].url, "--prefix", prefix, status=2)
    assert "it is a replica" in found["topology"]["text"]
    assert found["rights"]["level"] == "fail"


def test_sentinels(sentinel_topology: SentinelTopology, prefix: str) -> None:
    """All servers are asked, by the Sentinels' addresses."""
    found = levels(sentinel_topology.url, "--prefix", prefix, status=1)
    assert found["topology"]["text"] == "Sentinels: 3 of 3 answer; quorum 2 of 3"
    assert found["topology"]["level"] == found["rights"]["level"] == "ok"

    text = check(sentinel_topology.url, "--prefix", prefix).stdout
    for node in sentinel_topology.servers:
        assert node.address in text


def test_sentinels_that_are_away(sentinel_topology: SentinelTopology, prefix: str) -> None:
    """One that doesn't answer is a warning; none is the end, and so is a name they don't know."""
    first = sentinel_topology.sentinels[0].address
    nowhere = f"127.0.0.1:{free_port()}"
    some = levels(f"redis+sentinel://{nowhere},{first}/mymaster/0", "--prefix", prefix, status=1)
    assert some["topology"]["level"] == "warn"
    assert "1 of 2 answer" in some["topology"]["text"]

    none = levels(f"redis+sentinel://{nowhere}/mymaster/0", status=2)
    assert list(none) == ["connection"]
    other = levels(f"redis+sentinel://{first}/yourmaster/0", status=2)
    assert "'yourmaster'" in other["connection"]["text"]


def test_sentinels_that_the_url_does_not_name(server_binary: Path) -> None:
    """A quorum that nobody reaches, Sentinels and replicas that are down: no failover."""
    with topologies.sentinel(replicas=1, sentinels=3, server=server_binary) as topology:
        first, *others = topology.sentinels
        url = f"redis+sentinel://{first.address}/mymaster/0"
        assert "quorum 2 of 3" in levels(url, status=1)["topology"]["text"]

        for name, given in (("all", sentinel_rules()), ("few", sentinel_rules()[:-1])):
            first.ask(*acl_line(name, f">{SECRET}", given).split())
        asked = f"{url}?sentinel_password={SECRET}&sentinel_username="
        assert levels(f"{asked}all")["topology"]["level"] == "ok"
        unknown = levels(f"{asked}few")["topology"]
        assert unknown["level"] == "unknown"
        assert "SENTINEL SENTINELS" in unknown["text"]

        first.ask("SENTINEL", "SET", "mymaster", "quorum", "4")
        few = levels(url, status=2)["topology"]
        assert few["level"] == "fail"
        assert "quorum 2" in few["advice"]
        first.ask("SENTINEL", "SET", "mymaster", "quorum", "2")

        others[0].kill()
        assert eventually(lambda: levels(url)["topology"]["level"] == "warn")
        assert others[0].address in levels(url)["topology"]["text"]
        others[1].kill()
        assert eventually(lambda: levels(url)["topology"]["level"] == "fail")

        topology.replicas[0].kill()
        assert eventually(lambda: "start the replicas" in levels(url)["topology"]["advice"])
        assert eventually(lambda: levels(url)["replication"]["level"] == "fail")


def test_a_replica_of_somebody_else(start_server: StartServer, prefix: str) -> None:
    """What `replicas=read` names must have this primary's sessions."""
    first, second, third = (start_server() for _ in range(3))
    url = f"redis://127.0.0.1:{first.port},127.0.0.1:{{}}/0?replicas=read"
    found = levels(url.format(second.port), "--prefix", prefix, status=2)
    assert "is a primary" in found["topology"]["text"]
    with Redis(port=third.port, protocol=2) as client:
        client.replicaof("127.0.0.1", str(second.port))
        strange = url.format(third.port)
        assert eventually(
            lambda: "another primary" in levels(strange, "--prefix", prefix)["topology"]["text"]
        )


def test_cluster(cluster_topology: ClusterTopology, prefix: str) -> None:
    """All slots are served; the dry run wrote to each primary."""
    before = {node.port: writes(node.port) for node in cluster_topology.primaries}
    found = levels(cluster_topology.url, "--prefix", prefix, status=1)

    assert found["topology"]["text"] == "Cluster: 3 primaries, 3 replicas"
    assert found["topology"]["details"]["slots"] == 16384
    assert found["rights"]["level"] == "ok"
    assert all(writes(node.port) > before[node.port] for node in cluster_topology.primaries)


def test_a_prefix_with_a_hash_tag(cluster_topology: ClusterTopology, prefix: str) -> None:
    """There is one shard to try, and a warning that all sessions lie on it."""
    before = {node.port: writes(node.port) for node in cluster_topology.primaries}
    found = levels(cluster_topology.url, "--prefix", f"{{{prefix}}}:", status=1)
    assert "hash tag" in found["topology"]["text"]
    assert found["rights"]["level"] == "ok"
    tried = [node for node in cluster_topology.primaries if writes(node.port) > before[node.port]]
    assert len(tried) == 1


def test_replicas_that_the_user_may_not_read(
    cluster_topology: ClusterTopology, replicas_topology: Topology, prefix: str
) -> None:
    """With `replicas=read` it is a warning: all reads would go to the primaries, silently."""
    name = prefix.replace(":", "-")
    hosts = ",".join(node.address for node in replicas_topology.nodes)
    for nodes, url, needed in (
        (cluster_topology.nodes, cluster_topology.url, ("+readonly", "+info")),
        (replicas_topology.nodes, f"redis://{hosts}", ("+info",)),
    ):
        asked = f"{url.replace('//', f'//{name}:{SECRET}@')}?replicas=read"
        whole = rules(Role.APP, prefix=prefix, cluster="cluster" in url, replicas=True)
        for lacking in (None, *needed):
            given = [rule for rule in whole if rule != lacking]
            for node in nodes:
                node.ask(*acl_line(name, f">{SECRET}", given).split())
            found = levels(asked, "--prefix", prefix)["rights"]
            assert found["level"] == ("warn" if lacking else "ok")
            assert ("--replicas" in found["advice"]) == (lacking is not None)
        for node in nodes:
            node.ask("ACL", "DELUSER", name)


def test_one_node_that_has_another_user(cluster_topology: ClusterTopology, prefix: str) -> None:
    """Users are set at each node: what one of them refuses is found, whichever it is."""
    name = prefix.replace(":", "-")
    whole = rules(Role.APP, prefix=prefix, cluster=True)
    url = cluster_topology.url.replace("//", f"//{name}:{SECRET}@")
    for lacking in cluster_topology.primaries:
        for node in cluster_topology.nodes:
            given = [rule for rule in whole if node is not lacking or rule != "+ssubscribe"]
            node.ask(*acl_line(name, f">{SECRET}", given).split())
        found = levels(url, "--prefix", prefix, "--uses", "messages", status=2)
        assert found["messages"]["level"] == "fail"
        assert "ssubscribe" in found["messages"]["text"]
    for node in cluster_topology.nodes:
        node.ask("ACL", "DELUSER", name)


def test_nodes_without_the_names_that_they_prefer(
    cluster_topology: ClusterTopology, prefix: str
) -> None:
    """They are where the node is that was asked, as for a store."""
    option = "cluster-preferred-endpoint-type"
    if not cluster_topology.nodes[0].ask("CONFIG", "GET", option):
        pytest.skip("a Cluster of Redis 6.2 knows its nodes by addresses only")
    try:
        for node in cluster_topology.nodes:
            node.ask("CONFIG", "SET", option, "hostname")
        found = levels(cluster_topology.url, "--prefix", prefix, status=1)
        assert "connection" not in found
    finally:
        for node in cluster_topology.nodes:
            node.ask("CONFIG", "SET", option, "ip")


def writes(port: int) -> int:
    with Redis(port=port, protocol=2) as client:
        stats: Any = client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("set", "hset"))


def test_cluster_without_a_shard(server_binary: Path) -> None:
    """Slots that nobody serves, and a node that is away, are failures."""
    with topologies.cluster(
        replicas=0, server=server_binary, options={"cluster-require-full-coverage": "no"}
    ) as topology:
        bare = levels(topology.url, status=1)
        assert "3 primaries have none" in bare["topology"]["text"]
        lost = topology.primaries[2]
        lost.kill()
        found = levels(topology.url, status=2)

    assert lost.address in found["connection"]["server"]
    assert found["rights"]["level"] == "fail"


def test_the_wrong_scheme(
    cluster_topology: ClusterTopology, sentinel_topology: SentinelTopology, prefix: str
) -> None:
    """A node of a Cluster and a Sentinel are no plain servers, and it says what to write."""
    node = levels(cluster_topology.nodes[0].url, "--prefix", prefix, status=2)
    assert node["topology"]["advice"] == "write redis+cluster://"
    watcher = levels(sentinel_topology.sentinels[0].url, "--prefix", prefix, status=2)
    assert watcher["topology"]["advice"] == "write redis+sentinel://"


def test_tls(tls_topology: TlsTopology, prefix: str) -> None:
    """Over TLS with the authority's certificate all is well; unchecked it is a warning."""
    assert levels(tls_topology.url, "--prefix", prefix, status=1)["tls"]["level"] == "ok"

    unchecked = f"{tls_topology.url}&ssl_check_hostname=false"
    assert levels(unchecked, "--prefix", prefix)["tls"]["level"] == "warn"
    stranger = tls_topology.url.partition("?")[0]
    refused = levels(stranger, "--prefix", prefix, status=2)
    assert "certificate" in refused["connection"]["text"].lower()

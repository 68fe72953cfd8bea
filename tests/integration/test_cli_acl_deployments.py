"""The roles of `redis-sessions acl` behind Sentinels and in a Cluster, replicas included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from redis_sessions import ConfigurationError, SessionConflictError, SessionManager, StoreError
from redis_sessions.cli.acl import Role, acl_line, rules, sentinel_rules
from redis_sessions.session.keyring import Keyring
from redis_sessions.stores import RedisStore
from redis_sessions.testing import read_session, store_session
from redis_sessions.testing.topologies.replication import SERVICE
from redis_sessions.testing.topology import ClusterTopology, Node, SentinelTopology
from tests.integration.acl_roles import PASSWORD, administer, exercise
from tests.support.asgi import KEY

Make = Callable[[Iterable[Node], Iterable[str]], str]


@pytest.fixture
def user(prefix: str) -> Iterator[Make]:
    """Make a user with these rules on all these servers: `name:password`."""
    with ExitStack() as stack:

        def make(nodes: Iterable[Node], given: Iterable[str]) -> str:
            name = f"{prefix.replace(':', '-')}{len(made)}"
            made.append(name)
            command = acl_line(name, f">{PASSWORD}", given).split(" ")
            for node in nodes:
                node.ask(*command)
                stack.callback(node.ask, "ACL", "DELUSER", name)
            return f"{name}:{PASSWORD}"

        made: list[str] = []
        yield make


def denied(nodes: Iterable[Node], name: str) -> list[Any]:
    """What the servers refused to this user, in their logs."""
    return [entry for node in nodes for entry in node.ask("ACL", "LOG") if name in str(entry)]


async def live(url: str, prefix: str, **waiting: Any) -> None:
    """Sign in, list, change under a lock, revoke: through a manager."""
    store = RedisStore(url, prefix=prefix, **waiting)
    manager = SessionManager(store, Keyring(KEY))
    await manager.connect()
    tokens = [await store_session(manager, {"user_id": prefix}) for _ in range(4)]
    session = await manager.load(tokens[0])
    async with session.exclusive():
        session["n"] = 1
    for token in tokens:
        assert await read_session(manager, token)
    assert len(await manager.sessions_of(prefix)) == 4
    assert await manager.revoke(tokens[1][:20], principal=prefix)
    assert await manager.revoke_all(prefix) == 3
    await manager.close()


async def test_app_in_a_cluster(cluster_topology: ClusterTopology, prefix: str, user: Make) -> None:
    """The application reads from replicas and waits for them, and nothing is refused."""
    given = rules(Role.APP, prefix=prefix, cluster=True, replicas=True)
    account = user(cluster_topology.nodes, given)
    hosts = ",".join(node.address for node in cluster_topology.nodes)
    url = f"redis+cluster://{account}@{hosts}?replicas=read"
    await live(url, prefix, wait_replicas=1, wait_for="all")
    await exercise(url, prefix)
    assert denied(cluster_topology.nodes, account.partition(":")[0]) == []


async def test_app_in_a_cluster_has_nothing_to_spare(
    cluster_topology: ClusterTopology, prefix: str, user: Make
) -> None:
    """Without a command that Cluster or WAIT need, something fails."""
    given = rules(Role.APP, prefix=prefix, cluster=True, replicas=True)
    hosts = ",".join(node.address for node in cluster_topology.nodes)
    for missing in ("cluster|slots", "get", "wait", "spublish", "ssubscribe"):
        fewer = [rule for rule in given if rule != f"+{missing}"]
        url = f"redis+cluster://{user(cluster_topology.nodes, fewer)}@{hosts}"
        with pytest.raises((StoreError, ConfigurationError, SessionConflictError)):
            await exercise(url, prefix)
            await live(url, prefix, wait_replicas=1)
        assert denied(cluster_topology.nodes, url.partition("//")[2].partition(":")[0])


async def test_admin_in_a_cluster(
    cluster_topology: ClusterTopology, prefix: str, user: Make
) -> None:
    """The administrator lists and revokes there."""
    account = user(cluster_topology.nodes, rules(Role.ADMIN, prefix=prefix, cluster=True))
    await administer(f"redis+cluster://{account}@{cluster_topology.nodes[0].address}", prefix)
    assert denied(cluster_topology.nodes, account.partition(":")[0]) == []


def test_monitor_in_a_cluster(cluster_topology: ClusterTopology, prefix: str, user: Make) -> None:
    """It finds the nodes, and counts their keys."""
    account = user(cluster_topology.nodes, rules(Role.MONITOR, prefix=prefix, cluster=True))
    name, _, password = account.partition(":")
    with cluster_topology.nodes[0].connect(username=name, password=password) as client:
        monitor: Any = client
        assert len(monitor.execute_command("CLUSTER SLOTS")) == 3
        assert monitor.execute_command("CLUSTER INFO")["cluster_state"] == "ok"
        assert client.dbsize() >= 0
        for forbidden in ("CLUSTER FAILOVER", "CLUSTER GETKEYSINSLOT 0 1", "SCAN 0"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden.split())


async def test_app_behind_sentinels(
    sentinel_topology: SentinelTopology, prefix: str, user: Make
) -> None:
    """On the servers the plain line is enough; on the Sentinels one may ask for the primary."""
    account = user(sentinel_topology.servers, rules(Role.APP, prefix=prefix, replicas=True))
    watcher, _, secret = user(sentinel_topology.sentinels, sentinel_rules()).partition(":")
    hosts = ",".join(node.address for node in sentinel_topology.sentinels)
    url = (
        f"redis+sentinel://{account}@{hosts}/{SERVICE}/0?replicas=read"
        f"&sentinel_username={watcher}&sentinel_password={secret}"
    )
    await live(url, prefix, wait_replicas=1)
    await exercise(url, prefix)
    assert denied(sentinel_topology.servers, account.partition(":")[0]) == []
    assert denied(sentinel_topology.sentinels, watcher) == []

    with sentinel_topology.sentinels[0].connect(username=watcher, password=secret) as client:
        assert SERVICE in client.sentinel_masters()
        for forbidden in (f"SENTINEL FAILOVER {SERVICE}", "SENTINEL RESET *", "ACL LIST"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden.split())

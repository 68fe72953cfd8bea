"""TLS behind Sentinels and in a Cluster: every server is checked, also one that others named."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trustme
from redis import Redis as AdminClient
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from redis_sessions import RedisStore, StoreError, StoreUnavailableError
from redis_sessions.connect.health import AWAY
from redis_sessions.session.record import tombstone
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import Commit
from redis_sessions.testing import topology
from redis_sessions.testing.topologies.replication import SERVICE
from redis_sessions.testing.topology import Certificates, Node
from tests.integration.cluster_slots import id_in, loaded, record, slots_of
from tests.integration.tls.refusals import (
    CUT_OFF,
    NO_TLS,
    OURS,
    STANDARD,
    commands_to,
    refused,
    url_with,
)
from tests.support.deployments import until
from tests.support.servers import as_app

pytestmark = STANDARD


Sent = topology.SentinelTopology
Shards = topology.ClusterTopology


def administer(node: Node) -> AdminClient:
    """A client that doesn't ask whose certificate it is."""
    return node.connect(ssl_cert_reqs="none", ssl_check_hostname=False)


@contextmanager
def configured(nodes: Iterable[Node], changes: dict[str, Any]) -> Generator[None]:
    """Servers with another configuration, until the block ends."""
    with ExitStack() as stack:
        for node in nodes:
            client = stack.enter_context(administer(node))
            before: dict[str, Any] = {}
            for name in changes:
                found: Any = client.config_get(name)
                before.update(found)
            stack.callback(_set, client, before)
            _set(client, changes)
        yield


def _set(client: AdminClient, settings: dict[str, Any]) -> None:
    pairs = [
        str(part, "utf-8") if isinstance(part, bytes) else str(part)
        for pair in settings.items()
        for part in pair
    ]
    client.execute_command("CONFIG", "SET", *pairs)


def certified(nodes: Iterable[Node], certificate: Path, key: Path) -> Any:
    """Servers with another certificate, until the block ends."""
    return configured(nodes, {"tls-cert-file": certificate, "tls-key-file": key})


# -- whoever was named by others


async def test_a_named_server_of_another_name(tls_sentinel_topology: Sent) -> None:
    """Sentinels name a server whose certificate is for another name: it is refused."""
    files = tls_sentinel_topology.certificates
    assert files is not None
    with certified(tls_sentinel_topology.servers, files.elsewhere, files.elsewhere_key):
        await refused(tls_sentinel_topology.url, "(?i)mismatch")
    await works(as_app(tls_sentinel_topology.url))


async def test_a_named_server_of_another_authority(
    tls_sentinel_topology: Sent, strangers: Certificates
) -> None:
    """Sentinels name a server for whom our authority doesn't vouch: it is refused."""
    with certified(tls_sentinel_topology.servers, strangers.server, strangers.server_key):
        await refused(tls_sentinel_topology.url, "CERTIFICATE_VERIFY_FAILED")
    await works(as_app(tls_sentinel_topology.url))


async def test_a_named_server_wants_a_certificate(tls_sentinel_topology: Sent) -> None:
    """A client of one's own whose certificate is for the Sentinels alone."""
    files = tls_sentinel_topology.certificates
    assert files is not None
    watchers = Sentinel(
        [("127.0.0.1", node.port) for node in tls_sentinel_topology.sentinels],
        sentinel_kwargs={"ssl": True, **files.client_arguments()},
        ssl=True,
        ssl_ca_certs=str(files.ca),
    )
    client: Redis = watchers.master_for(SERVICE)
    await refused(client, CUT_OFF)


async def test_sentinels_name_a_plain_server(
    tls_sentinel_topology: Sent, server_binary: Path
) -> None:
    """It is never told a command."""
    with topology.single(server=server_binary) as plain:
        watchers = tls_sentinel_topology.sentinels
        for watcher in watchers:
            watcher.ask("SENTINEL", "MONITOR", "plain", "127.0.0.1", plain.primary.port, 2)
        try:
            url = tls_sentinel_topology.url.replace(f"/{SERVICE}/", "/plain/")
            await refused(url.replace("//", "//app:sesame@"), NO_TLS)
        finally:
            for watcher in watchers:
                watcher.ask("SENTINEL", "REMOVE", "plain")
        assert commands_to(plain.primary) <= OURS


def seed_alone(running: Shards) -> str:
    """The URL with one node, which names the others."""
    return running.url.replace(
        ",".join(node.address for node in running.nodes[:3]), running.nodes[0].address
    )


async def test_named_nodes_of_another_name(tls_cluster_topology: Shards) -> None:
    """A node of a Cluster names others whose certificates are for another name: refused."""
    files = tls_cluster_topology.certificates
    assert files is not None
    url = seed_alone(tls_cluster_topology)
    with certified(tls_cluster_topology.nodes[1:], files.elsewhere, files.elsewhere_key):
        await refused_elsewhere(url, "(?i)mismatch")
    await works(as_app(url))


async def test_named_nodes_of_another_authority(
    tls_cluster_topology: Shards, strangers: Certificates
) -> None:
    """A node of a Cluster names others for whom our authority doesn't vouch: refused."""
    url = seed_alone(tls_cluster_topology)
    with certified(tls_cluster_topology.nodes[1:], strangers.server, strangers.server_key):
        await refused_elsewhere(url, "CERTIFICATE_VERIFY_FAILED")
    await works(as_app(url))


async def test_named_nodes_want_a_certificate(tls_cluster_topology: Shards) -> None:
    """A node that wants none names others that do: without one they refuse."""
    query = url_with(tls_cluster_topology, ssl_certfile=None, ssl_keyfile=None).partition("?")[2]
    url = f"{seed_alone(tls_cluster_topology).partition('?')[0]}?{query}"
    with configured(tls_cluster_topology.nodes[:1], {"tls-auth-clients": "no"}):
        await refused_elsewhere(url, CUT_OFF)


async def test_nodes_name_a_plain_server(tls_cluster_topology: Shards, server_binary: Path) -> None:
    """It is never told a command."""
    with topology.single(server=server_binary) as plain:
        seed, other = tls_cluster_topology.nodes[:2]
        there = plain.primary.port

        def named() -> set[int]:
            return {each[2][1] for each in seed.ask("CLUSTER", "SLOTS")}

        with configured([other], {"cluster-announce-tls-port": there}):
            await until(_async(lambda: there in named()))
            await refused_elsewhere(seed_alone(tls_cluster_topology), NO_TLS)
        await asyncio.to_thread(tls_cluster_topology.wait_ready)  # the others hear of it later
        assert commands_to(plain.primary) <= OURS


async def test_replicas_are_checked(tls_cluster_topology: Shards, prefix: str) -> None:
    """A replica whose certificate is for another name isn't read; the primary is."""
    files = tls_cluster_topology.certificates
    assert files is not None
    ids = [SessionToken.generate().id for _ in range(20)]
    url = f"{as_app(tls_cluster_topology.url)}&replicas=read"
    store = RedisStore(url, prefix=prefix)
    careless = RedisStore(f"{url}&ssl_check_hostname=false", prefix=prefix)
    await careless.connect()
    await asyncio.gather(*(store.commit(id, None, bytes(80), 60_000) for id in ids))
    with certified(tls_cluster_topology.nodes[3:], files.elsewhere, files.elsewhere_key):

        async def read_by_the_other() -> bool:
            assert set(await copies(store, ids)) == {None}
            return None not in await copies(careless, ids)

        await until(read_by_the_other)
    await store.close()
    await careless.close()


async def copies(store: RedisStore, ids: list[str]) -> list[bytes | None]:
    """What the replicas have, as far as they may be asked."""
    asked = [store.load_from_replica(id) for id in ids]
    return [None if copy is None else await copy for copy in asked]


async def test_nodes_that_are_known_by_name(tls_cluster_topology: Shards, tmp_path: Path) -> None:
    """Certificates for a name alone: nodes have to announce it."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca)
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    nodes = tls_cluster_topology.nodes
    url = url_with(tls_cluster_topology, ssl_ca_certs=ca).replace("127.0.0.1", "localhost")
    with certified(nodes, certificate, key):
        await refused_elsewhere(url, "(?i)mismatch")

    names = {
        "cluster-announce-hostname": "localhost",
        "cluster-preferred-endpoint-type": "hostname",
    }
    with configured(nodes, names):
        await until(_async(lambda: all(hosts_of(node) == {"localhost"} for node in nodes)))
        with certified(nodes, certificate, key):
            await works(as_app(url))


def hosts_of(node: Node) -> set[str]:
    return {place[0] for each in node.ask("CLUSTER", "SLOTS") for place in each[2:]}


def _async(condition: Callable[[], bool]) -> Any:
    async def ask() -> bool:
        return condition()

    return ask


async def works(url: str) -> None:
    """Every server is reached again."""
    store = RedisStore(url)
    await store.connect()
    for number in range(20):
        assert await store.load(f"nobody-{number}") is None
    await store.close()


async def refused_elsewhere(url: str, told: str) -> None:
    """Some keys are served by the seed; the others by nobody, and it is told why."""
    store = RedisStore(url, timeout=1.0)
    loads = [store.load(f"nobody-{number}") for number in range(30)]
    found = await asyncio.gather(*loads, return_exceptions=True)
    troubles = [each for each in found if each is not None]
    assert troubles
    for trouble in troubles:
        assert isinstance(trouble, StoreUnavailableError)
        assert trouble.reason in AWAY
        assert re.search(told, str(trouble))
    assert len(troubles) < len(found) or "localhost" in url
    await store.close()


# -- while they change


async def test_sentinels_fail_over(tls_sentinel_topology: Sent, prefix: str) -> None:
    """Whom they name next is reached by its name, and has what was stored."""
    store = RedisStore(as_app(tls_sentinel_topology.url), prefix=prefix, wait_replicas=1)
    id, value = SessionToken.generate().id, bytes(80)
    assert (await store.commit(id, None, value, 60_000)).result is Commit.STORED
    await asyncio.to_thread(tls_sentinel_topology.failover)

    async def served() -> bool:
        try:
            return (await store.end(id, tombstone(0), 60_000)).result
        except StoreError:
            return False

    await until(served)
    await store.close()


async def test_slots_move_and_nodes_fail_over(tls_cluster_topology: Shards, prefix: str) -> None:
    """Whoever MOVED or ASK names is reached over TLS, too."""
    source, target = tls_cluster_topology.nodes[:2]
    store = RedisStore(as_app(tls_cluster_topology.url), prefix=prefix)
    await store.connect()
    slots = slots_of(tls_cluster_topology, source)[:5]
    ids = [id_in(slots, prefix) for _ in range(10)]
    values = [record() for _ in ids]
    for id, value in zip(ids, values, strict=True):
        assert (await store.commit(id, None, value, 60_000)).result is Commit.STORED
    for here, there in ((source, target), (target, source)):
        moving = asyncio.to_thread(tls_cluster_topology.move_slots, slots, here, there)
        _, found = await asyncio.gather(moving, loaded(store, *ids))
        assert found == values
        assert await loaded(store, *ids) == values
    replica = tls_cluster_topology.replicas_of(source)[0]
    for node in (replica, source):
        await asyncio.to_thread(tls_cluster_topology.failover, node)
        assert await loaded(store, *ids) == values
    await store.close()

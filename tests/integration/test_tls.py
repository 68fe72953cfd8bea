"""TLS behind Sentinels and in a Cluster: every server is checked, also one that others named."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis import Redis as AdminClient
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from redis_sessions import RedisStore, StoreError, StoreUnavailableError
from redis_sessions.record import tombstone
from redis_sessions.stores import Commit
from redis_sessions.stores.coalescing import AWAY
from redis_sessions.testing import topology
from redis_sessions.testing.topologies.replication import SERVICE
from redis_sessions.testing.topology import Certificates, Node
from redis_sessions.token import SessionToken
from tests.deployments import until
from tests.integration.test_cli_check import levels
from tests.integration.test_deployments import id_in, loaded, record, slots_of
from tests.support import as_app

pytestmark = pytest.mark.standard(31, "ASVS 12.3.1", "ASVS 12.3.2", "ASVS 12.3.3", "ASVS 12.3.4")

# How the server's end of a handshake shows depends on the moment.
CUT_OFF = r"(?i)certificate|unknown ca|closed|reset|lost"
NO_TLS = r"(?i)ssl|closed|reset|answer|timeout"  # it waits for the end of a line
OURS = {"client|setinfo", "info", "role"}  # what these tests ask a server themselves

Sent = topology.SentinelTopology
Shards = topology.ClusterTopology


@pytest.fixture(params=["tls", "tls_sentinel", "tls_cluster"])
def secured(request: pytest.FixtureRequest) -> Any:
    """Each topology that speaks TLS only, and wants a client's certificate."""
    return request.getfixturevalue(f"{request.param}_topology")


@pytest.fixture
def strangers(tmp_path: Path) -> Certificates:
    """Of another authority, for the same names."""
    return Certificates.create(tmp_path / "strangers")


def url_with(running: Any, **changes: str | Path | None) -> str:
    """The topology's URL with other options; None leaves one out."""
    options = {**running.certificates.client_arguments(), **changes}
    query = "&".join(f"{name}={value}" for name, value in options.items() if value is not None)
    return f"{running.url.partition('?')[0]}?{query}"


async def refused(source: Any, told: str, prefix: str = "session:") -> None:
    """The store can't be used, for this reason and from the first attempt to the last."""
    store = RedisStore(source, prefix=prefix, timeout=1.0)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=told) as caught:
            await store.connect()
        assert caught.value.reason in AWAY
    await store.close()


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


# -- whoever is in the URL


async def test_another_authority(secured: Any, strangers: Certificates) -> None:
    """Whom the authority in the URL doesn't vouch for is refused."""
    await refused(url_with(secured, ssl_ca_certs=strangers.ca), "CERTIFICATE_VERIFY_FAILED")


async def test_the_system_knows_another_authority(
    secured: Any, strangers: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority in the URL is the only one: whom the system's vouch for is refused, too."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.certificates.ca))
    stranger = url_with(secured, ssl_ca_certs=strangers.ca, ssl_check_hostname="false")
    await refused(stranger, "CERTIFICATE_VERIFY_FAILED")
    if secured.url.startswith("rediss://"):
        await refused(Redis.from_url(stranger), "CERTIFICATE_VERIFY_FAILED")


async def test_the_systems_authorities(secured: Any) -> None:
    """Without an authority in the URL it is the system's, which don't know ours."""
    await refused(url_with(secured, ssl_ca_certs=None), "CERTIFICATE_VERIFY_FAILED")


async def test_no_clients_certificate(secured: Any) -> None:
    """A client without a certificate is refused, and told so."""
    await refused(url_with(secured, ssl_certfile=None, ssl_keyfile=None), CUT_OFF)


async def test_a_strangers_certificate(secured: Any, strangers: Certificates) -> None:
    """A client's of another authority is refused, too."""
    files = {"ssl_certfile": strangers.client, "ssl_keyfile": strangers.client_key}
    await refused(url_with(secured, **files), CUT_OFF)


async def test_another_name(secured: Any) -> None:
    """The same machine under a name that isn't in its certificate."""
    await refused(secured.url.replace("127.0.0.1", "127.1"), "(?i)mismatch")


async def test_plain_text_is_refused(secured: Any) -> None:
    """Servers that speak TLS don't answer a client that doesn't."""
    await refused(secured.url.partition("?")[0].replace("rediss", "redis", 1), CUT_OFF)


@pytest.mark.parametrize(
    "url", ["rediss://{}/0", "rediss+sentinel://{}/mymaster", "rediss+cluster://{}"]
)
async def test_no_way_back_to_plain_text(url: str, server_binary: Path) -> None:
    """A server that doesn't speak TLS is never told a command, nor a password."""
    with topology.single(server=server_binary) as plain:
        source = url.format(f"app:sesame@{plain.primary.address}")
        await refused(f"{source}?ssl_cert_reqs=none", NO_TLS)
        assert commands_to(plain.primary) <= OURS


def commands_to(node: Node) -> set[str]:
    """What this server was ever told."""
    return {name.removeprefix("cmdstat_") for name in node.ask("INFO", "commandstats")}


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
    asked = [store.nearby(id) for id in ids]
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
    assert await store.commit(id, None, value, 60_000) is Commit.STORED
    await asyncio.to_thread(tls_sentinel_topology.failover)

    async def served() -> bool:
        try:
            return await store.end(id, tombstone(0), 60_000)
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
        assert await store.commit(id, None, value, 60_000) is Commit.STORED
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


def test_a_check(secured: Any, prefix: str) -> None:
    """`redis-sessions check` reaches every server, and is as strict."""
    found = levels(secured.url, "--prefix", prefix)
    assert (found["tls"]["level"], found["rights"]["level"]) == ("ok", "ok")
    nobody = levels(url_with(secured, ssl_ca_certs=None), "--prefix", prefix, status=2)
    assert "certificate" in nobody["connection"]["text"].lower()

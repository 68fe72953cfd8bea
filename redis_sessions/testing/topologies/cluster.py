"""A Cluster: made, failed over, and resharded while it is in use."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self, cast

from redis import Redis
from redis.crc import key_slot

from redis_sessions.testing.topologies.certificates import Certificates
from redis_sessions.testing.topologies.processes import (
    HOST,
    TIMEOUT,
    Node,
    Processes,
    TopologyError,
    wait_until,
)
from redis_sessions.testing.topologies.replication import server_config

__all__ = ["ClusterTopology", "cluster"]

SLOTS: Final = 16_384
_KEYS: Final = 100  # a batch of keys on their way from node to node
_MIGRATE_MS: Final = 4_000  # less than a command may take


class _Seen(NamedTuple):
    """One node, as a node sees it: a line of CLUSTER NODES."""

    port: int
    flags: frozenset[str]
    primary_id: str  # "-" for a primary
    epoch: int
    connected: bool
    slots: tuple[tuple[int, int], ...]  # first and last

    @classmethod
    def parse(cls, line: str) -> Self:
        _, address, flags, primary_id, _, _, epoch, link, *slots = line.split()
        ranges = [slot.split("-") for slot in slots if not slot.startswith("[")]
        return cls(
            port=int(address.split("@")[0].rpartition(":")[2]),
            flags=frozenset(flags.split(",")),
            primary_id=primary_id,
            epoch=int(epoch),
            connected=link == "connected",
            slots=tuple((int(part[0]), int(part[-1])) for part in ranges),
        )

    @property
    def well(self) -> bool:
        bad = {"fail", "fail?", "handshake", "noaddr"}
        return self.flags.isdisjoint(bad) and (self.connected or "myself" in self.flags)


class ClusterTopology:
    """The nodes of a Cluster; `nodes` begins with those that were primaries at first."""

    def __init__(
        self, nodes: Iterable[Node], primaries: int, certificates: Certificates | None = None
    ) -> None:
        self.nodes = tuple(nodes)
        addresses = ",".join(node.address for node in self.nodes[:primaries])
        url = f"redis+cluster://{addresses}"
        self.url = url if certificates is None else certificates.secured(url)
        self.certificates = certificates

    @property
    def primaries(self) -> list[Node]:
        """The running nodes that are primaries, by their own account."""
        return [node for node in self._running if node.role() == "primary"]

    def replicas_of(self, primary: Node) -> list[Node]:
        """The running replicas that follow this primary."""
        roles = {node: node.ask("ROLE") for node in self._running}
        return [n for n, role in roles.items() if role[0] == "slave" and role[2] == primary.port]

    def slot_owner(self, key: str | bytes | int) -> Node:
        """The running primary that has a key, or a slot (`int`); `TopologyError` if none has."""
        if not isinstance(key, int):
            key = key_slot(key.encode() if isinstance(key, str) else key)
        owners: list[tuple[int, Node]] = []
        for node in self._running:
            own = next(seen for seen in _look(node) if "myself" in seen.flags)
            if any(first <= key <= last for first, last in own.slots):
                owners.append((own.epoch, node))
        if not owners:
            raise TopologyError(f"no running node has slot {key}")
        return max(owners, key=lambda owner: owner[0])[1]  # an older one has yet to learn of it

    def failover(self, replica: Node, how: Literal["", "FORCE", "TAKEOVER"] = "") -> None:
        """Have this replica take its primary's place; return once all nodes know."""
        replica.ask("CLUSTER", "FAILOVER", *([how] if how else []))
        self.wait_promoted(replica)

    def wait_promoted(self, replica: Node, timeout: float = TIMEOUT) -> None:
        """Return once this node is a primary, and all is ready."""

        def problem() -> str:
            return (
                f"{replica} is still a replica" if replica.role() != "primary" else self._problem()
            )

        wait_until(problem, timeout)

    def move_slots(self, slots: Iterable[int], source: Node, target: Node) -> None:
        """Move slots with their keys, one after the other, while the Cluster is in use."""
        others = [node for node in self.primaries if node not in (source, target)]
        taker_id: str = target.ask("CLUSTER", "MYID")
        giver_id: str = source.ask("CLUSTER", "MYID")
        with source.connect() as giver, target.connect() as taker:
            for slot in slots:
                setslot = ("CLUSTER", "SETSLOT", slot)
                taker.execute_command(*setslot, "IMPORTING", giver_id)
                giver.execute_command(*setslot, "MIGRATING", taker_id)
                _migrate(giver, slot, target)
                # The target first: nobody may point back at it meanwhile.
                taker.execute_command(*setslot, "NODE", taker_id)
                giver.execute_command(*setslot, "NODE", taker_id)
                for node in others:
                    node.ask(*setslot, "NODE", taker_id)

    def wait_ready(self, timeout: float = TIMEOUT) -> None:
        """Return once the nodes that run agree that all is well; `TopologyError` after `timeout`.

        All slots are served, all see the same owners and replicas, and each replica follows.
        """
        wait_until(self._problem, timeout)

    @property
    def _running(self) -> list[Node]:
        return [node for node in self.nodes if node.running]

    def _problem(self) -> str:
        running = self._running
        ports = {node.port for node in running}
        maps: set[frozenset[object]] = set()
        for node in running:
            seen = _look(node)
            if missing := ports - {other.port for other in seen if other.well}:
                return f"{node} doesn't see {sorted(missing)}"
            if len(seen) != len(self.nodes):
                return f"{node} knows {len(seen)} of {len(self.nodes)} nodes"
            said: str = node.ask("CLUSTER", "INFO")
            if "cluster_state:ok" not in said or f"cluster_slots_ok:{SLOTS}" not in said:
                return f"{node} doesn't serve, or knows of slots that nobody serves"
            maps.add(frozenset((s.port, s.primary_id, s.slots) for s in seen if s.port in ports))
            role = node.ask("ROLE")
            if role[0] == "slave" and (role[2] not in ports or role[3] != "connected"):
                return f"{node} doesn't follow: {role}"
        return "" if len(maps) == 1 else "the nodes don't agree on who has which slots"


def _look(node: Node) -> list[_Seen]:
    text: str = node.ask("CLUSTER", "NODES")
    return [_Seen.parse(line) for line in text.splitlines()]


def _migrate(giver: Redis, slot: int, target: Node) -> None:
    """Move a slot's keys until none is left: new ones are made at the target already."""
    batch = ("CLUSTER", "GETKEYSINSLOT", slot, _KEYS)
    while keys := cast("list[bytes]", giver.execute_command(*batch)):
        giver.execute_command("MIGRATE", HOST, target.port, "", 0, _MIGRATE_MS, "KEYS", *keys)


@contextmanager
def cluster(
    primaries: int = 3,
    replicas: int = 1,
    *,
    node_timeout_ms: int = 1_500,
    tls: bool = False,
    server: str | Path | None = None,
    append_only: bool = False,
    options: Mapping[str, str] | None = None,
) -> Generator[ClusterTopology]:
    """A Cluster of `primaries`, each with so many `replicas`.

    A node that doesn't answer for `node_timeout_ms` is failed over. Replicas stay with their
    primary, and one that lost all its slots stays a primary. With `tls` they speak nothing else,
    and want certificates.
    """
    config = [
        *server_config(append_only=append_only),
        "cluster-enabled yes",
        f"cluster-node-timeout {node_timeout_ms}",
        "cluster-allow-replica-migration no",
        "cluster-replica-validity-factor 0",  # a replica takes over, however old its data
    ]
    with Processes(server) as processes:
        files = processes.use_tls() if tls else None
        if tls:
            config.append("tls-cluster yes")
        nodes = [
            processes.add(f"node-{number}", config, options=options)
            for number in range(1, primaries * (1 + replicas) + 1)
        ]
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_started()
        topology = ClusterTopology(nodes, primaries, files)
        _meet(nodes, primaries)
        topology.wait_ready()
        yield topology


def _meet(nodes: list[Node], primaries: int) -> None:
    for number, node in enumerate(nodes[:primaries]):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first, end = (SLOTS * n // primaries for n in (number, number + 1))
        node.ask("CLUSTER", "ADDSLOTS", *range(first, end))
    for number, node in enumerate(nodes):
        for other in nodes[number + 1 :]:  # gossip would tell them, too, but later
            node.ask("CLUSTER", "MEET", HOST, other.port)
    for number, node in enumerate(nodes[primaries:]):
        primary_id = nodes[number % primaries].ask("CLUSTER", "MYID")
        _replicate(node, primary_id)


def _replicate(node: Node, primary_id: str) -> None:
    def problem() -> str:
        node.ask("CLUSTER", "REPLICATE", primary_id)  # an error as long as it doesn't know it
        return ""

    wait_until(problem)

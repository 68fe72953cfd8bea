"""What breaks, on real processes, while 64 browsers are at work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from redis.crc import key_slot

from redis_sessions import Keyring, generate_key
from redis_sessions.testing.topologies.processes import HOST, TopologyError, wait_until
from redis_sessions.testing.topologies.replication import SERVICE
from redis_sessions.testing.topology import (
    ClusterTopology,
    Node,
    SentinelTopology,
    cluster,
    sentinel,
)
from tests.chaos.audit import Report, audit, longest_gap
from tests.chaos.border import INSIDE, Border
from tests.chaos.browsers import Load, Record
from tests.chaos.site import PREFIX, Later, Waits, Worker
from tests.support.servers import app_user, as_app

P = ParamSpec("P")
T = TypeVar("T")

DOWN_AFTER_MS: Final = 1_000
NODE_TIMEOUT_MS: Final = 1_500
WORKERS: Final = 4
RESHARDED: Final = 1_000
LAG_MS: Final = 200

_PARTIAL: Final = {"cluster-require-full-coverage": "no"}
"""Else one node that is away costs everybody's sessions: the servers refuse all slots."""


_NO_WAIT: Final = Waits()


@dataclass(frozen=True)
class Case:
    """One run of one scenario. `seconds` of load before the fault, and after each step."""

    scenario: str
    waits: Waits = _NO_WAIT
    lag_ms: int = 0
    """By which what the replicas receive is late, and lost with the primary."""
    min_replicas: bool = False
    """Whether a primary without replicas refuses writes."""
    seconds: float = 2.0
    server: Path | None = None
    slots: int = RESHARDED

    @property
    def variant(self) -> str:
        parts = [f"wait_replicas={self.waits.replicas}"]
        parts += ["wait_for=all"] if self.waits.every else []
        parts += [f"lag {self.lag_ms} ms"] if self.lag_ms else []
        parts += ["min-replicas-to-write 1, min-replicas-max-lag 1"] if self.min_replicas else []
        return ", ".join(parts)

    def violations(self, report: Report) -> list[str]:
        """What happened that may never happen in this case."""
        in_cluster = self.scenario in CLUSTER
        confirmed = self.waits.replicas == (1 if in_cluster else 2)
        every = confirmed and self.waits.every
        return report.violations(confirmed=confirmed, every=every, cluster=in_cluster)


@dataclass
class Run:
    """What is at work: for the faults to note what they do."""

    case: Case
    record: Record = field(default_factory=Record)
    began: float = 0.0
    """When the fault was there."""
    healed: float = 0.0
    struck: frozenset[str] = frozenset({"primary"})
    """The groups of servers concerned."""

    async def wait(self, seconds: float | None = None) -> None:
        """Let the load go on."""
        await asyncio.sleep(self.case.seconds if seconds is None else seconds)

    def strikes(self) -> None:
        self.began = self.healed = time.monotonic()

    def heals(self) -> None:
        self.healed = time.monotonic()


async def _sentinel_kill(run: Run, topology: SentinelTopology, _: Border) -> None:
    victim = topology.primary
    run.strikes()
    await _do(victim.kill)
    await _do(topology.wait_promoted, victim)
    await run.wait()
    await _do(victim.start)
    await _do(topology.wait_ready)


async def _sentinel_pause(run: Run, topology: SentinelTopology, _: Border) -> None:
    victim = topology.primary
    run.strikes()
    await _do(victim.pause)
    await _do(topology.wait_promoted, victim)
    await run.wait()
    victim.resume()
    run.heals()
    await _do(topology.wait_ready)


async def _sentinel_partition(run: Run, topology: SentinelTopology, border: Border) -> None:
    """Replicas, Sentinels and half of the workers don't reach the primary, and the others do."""
    before = topology.primary

    def problem() -> str:
        return "the old one is still the primary" if topology.primary is before else ""

    run.strikes()
    border.isolate()
    await _do(wait_until, problem)
    await run.wait()
    border.heal()
    run.heals()
    await _do(topology.wait_ready)


async def _cluster_kill(run: Run, topology: ClusterTopology) -> None:
    victim, heir = await _strike(run, topology)
    await _do(victim.kill)
    await _do(topology.wait_promoted, heir)
    await run.wait()
    await _do(victim.start)
    await _do(topology.wait_ready)


async def _cluster_pause(run: Run, topology: ClusterTopology) -> None:
    victim, heir = await _strike(run, topology)
    await _do(victim.pause)
    await _do(topology.wait_promoted, heir)
    await run.wait()
    victim.resume()
    run.heals()
    await _do(topology.wait_ready)


async def _cluster_failover(run: Run, topology: ClusterTopology) -> None:
    _, heir = await _strike(run, topology)
    await _do(topology.failover, heir)


async def _cluster_reshard(run: Run, topology: ClusterTopology) -> None:
    source, target = topology.nodes[:2]
    run.struck = frozenset({source.name, target.name})
    run.strikes()
    await _do(topology.move_slots, range(run.case.slots), source, target)
    await _do(topology.wait_ready)


async def _cluster_dead(run: Run, topology: ClusterTopology) -> None:
    """A node without a replica hangs, until it doesn't."""
    victim = topology.nodes[0]
    run.struck = frozenset({victim.name})
    run.strikes()
    await _do(victim.pause)
    await run.wait(2 * run.case.seconds)
    victim.resume()
    run.heals()
    await _do(topology.wait_ready)


SentinelFault = Callable[[Run, SentinelTopology, Border], Awaitable[None]]
ClusterFault = Callable[[Run, ClusterTopology], Awaitable[None]]

SENTINEL: Final[dict[str, SentinelFault]] = {
    "sentinel-kill": _sentinel_kill,
    "sentinel-pause": _sentinel_pause,
    "sentinel-partition": _sentinel_partition,
}
CLUSTER: Final[dict[str, ClusterFault]] = {
    "cluster-kill": _cluster_kill,
    "cluster-pause": _cluster_pause,
    "cluster-failover": _cluster_failover,
    "cluster-reshard": _cluster_reshard,
    "cluster-dead": _cluster_dead,
}
SCENARIOS: Final = (*SENTINEL, *CLUSTER)


async def run(case: Case) -> Report:
    """One run on servers of its own, and what became of everybody."""
    return await (_run_sentinel(case) if case.scenario in SENTINEL else _run_cluster(case))


async def _run_sentinel(case: Case) -> Report:
    options = {"min-replicas-to-write": "1", "min-replicas-max-lag": "1"}
    user = app_user(replicas=True)
    with sentinel(
        down_after_ms=DOWN_AFTER_MS,
        server=case.server,
        options={**user, **(options if case.min_replicas else {})},
    ) as topology:
        async with Border(topology.primary.port) as border:
            await _do(put_behind, topology, border)
            border.lag = case.lag_ms / 1000
            parted = case.scenario == "sentinel-partition"
            url = as_app(topology.url)
            inside = f"{url}?client_name={INSIDE}" if parted else url
            urls = [url, inside] * (WORKERS // 2)
            fault = SENTINEL[case.scenario]
            report = await _under_load(Run(case), urls, lambda run: fault(run, topology, border))
            report.failovers = await _do(_failovers, topology)
            return report


async def _run_cluster(case: Case) -> Report:
    replicas = 0 if case.scenario == "cluster-dead" else 1
    options = {**app_user(cluster=True, replicas=True), **_PARTIAL}
    with cluster(
        3, replicas, node_timeout_ms=NODE_TIMEOUT_MS, server=case.server, options=options
    ) as topology:
        owners = _owners(topology)
        run = Run(case, Record(group_of=lambda token: owners[key_slot(_key(token))]))
        fault = CLUSTER[case.scenario]
        async with AsyncExitStack() as stack:
            if case.lag_ms:
                border = await stack.enter_async_context(Border(topology.nodes[0].port))
                await _do(announce, topology, border)
                border.lag = case.lag_ms / 1000
            urls = [as_app(topology.url)] * WORKERS
            return await _under_load(run, urls, lambda run: fault(run, topology))


def _owners(topology: ClusterTopology) -> list[str]:
    """The name of each slot's primary."""
    names = {node.port: node.name for node in topology.nodes}
    owners = [""] * 16_384
    for first, last, primary, *_ in topology.nodes[0].ask("CLUSTER", "SLOTS"):
        owners[first : last + 1] = [names[primary[1]]] * (last - first + 1)
    return owners


def _key(token: str) -> bytes:
    return (PREFIX + token[:20]).encode()


async def _under_load(run: Run, urls: list[str], fault: Callable[[Run], Awaitable[None]]) -> Report:
    clock, case, record = Later(), run.case, run.record
    report = Report(case.scenario, case.variant)
    async with _workers(urls, clock, case.waits) as workers:
        async with Load(workers, record) as load:
            await run.wait()
            await fault(run)
            await run.wait()
            ended = time.monotonic()
        _measure(report, run, ended)
        await audit(report, load, record, workers, clock, run.healed)
    return report


@asynccontextmanager
async def _workers(urls: list[str], clock: Later, waits: Waits) -> AsyncGenerator[list[Worker]]:
    keyring = Keyring(generate_key())
    workers = [Worker(url, keyring, clock, waits) for url in urls]
    try:
        for worker in workers:
            await worker.manager.connect()
        yield workers
    finally:
        for worker in workers:
            await worker.manager.close()


def _measure(report: Report, run: Run, ended: float) -> None:
    record = run.record
    began = run.began - min(0.5, run.case.seconds / 2)
    gaps = {
        group: longest_gap(record.served[group], began, ended)
        for group in (*run.struck, "lifecycle")
    }
    report.unavailable_lifecycle = gaps.pop("lifecycle")
    report.unavailable = max(gaps.values())
    report.refused = record.refused.total()
    concerned = {*run.struck, "lifecycle"}
    report.refused_elsewhere = sum(n for g, n in record.refused.items() if g not in concerned)
    report.requests = record.answers.total()


async def _strike(run: Run, topology: ClusterTopology) -> tuple[Node, Node]:
    """A primary and its replica, and that something now happens to it."""
    victim = topology.nodes[0]
    (heir,) = await _do(topology.replicas_of, victim)
    run.struck = frozenset({victim.name})
    run.strikes()
    return victim, heir


def announce(topology: ClusterTopology, border: Border) -> None:
    """Have everybody reach the first primary, whose port it is in front of, through the border."""
    primary = topology.nodes[0]
    primary.ask("CONFIG", "SET", "cluster-announce-port", border.port)
    primary.ask("CONFIG", "REWRITE")
    primary.port = border.port
    topology.wait_ready()


def put_behind(topology: SentinelTopology, border: Border) -> None:
    """Have replicas, Sentinels and clients reach the primary through the border only."""
    primary, replicas = topology.primary, topology.replicas
    primary.ask("CONFIG", "SET", "replica-announce-port", border.port)
    primary.ask("CONFIG", "REWRITE")
    primary.port = border.port
    for replica in replicas:
        replica.ask("REPLICAOF", HOST, border.port)
    quorum = len(topology.sentinels) // 2 + 1
    for watcher in topology.sentinels:
        watcher.ask("SENTINEL", "REMOVE", SERVICE)
        watcher.ask("SENTINEL", "MONITOR", SERVICE, HOST, border.port, quorum)
        times = ("down-after-milliseconds", DOWN_AFTER_MS, "failover-timeout", 3 * DOWN_AFTER_MS)
        watcher.ask("SENTINEL", "SET", SERVICE, *times)
    topology.wait_ready()


def _failovers(topology: SentinelTopology) -> int:
    with topology.sentinels[0].connect(decode_responses=True) as client:
        state: Any = client.sentinel_master(SERVICE)
    return int(state["config-epoch"])


async def _do(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What blocks, beside the load and the border; an error of the topology is the run's."""
    try:
        return await asyncio.to_thread(function, *arguments, **options)
    except TopologyError as exc:
        raise AssertionError(f"the servers themselves didn't recover: {exc}") from exc

"""How many shards and workers so many sessions need, and what the loss of a shard costs.

    python -m benchmarks.capacity               # the plan and the simulations, from FIGURES
    python -m benchmarks.capacity --measure     # measures the figures anew, on a private server

`FIGURES` were measured once, with the command above; everything else is computed from them.
docs/scaling.md explains both.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import fmean
from typing import NamedTuple

from redis.crc import key_slot

SLOTS = 16_384
GIB = 1024**3


# -- the model


@dataclass(frozen=True)
class Figures:
    """Measured: bytes in Redis, and microseconds of CPU of its one thread and of a worker."""

    record: float
    """Bytes of one record in Redis with its key, without the data."""
    data: float
    """Bytes in Redis for one byte of encoded data."""
    index: float
    """Bytes of one principal's index with one session."""
    entry: float
    """Bytes of each further session in it."""
    read: float
    """Redis, for a request that reads, while no other of its worker waits."""
    read_of_many: float
    """Redis, for one of 64 requests at a time that read: they share an MGET."""
    change: float
    """Redis, beyond the read, for a request that changes its session."""
    touch: float
    """Redis, beyond the read, for a request that renews a signed-in session."""
    sign_in: float
    """Redis, for a request that signs in without a session before."""
    worker: float
    """A worker's CPU for the session of a request that reads, of 64 at a time."""
    end_all: float
    """Redis, for each entry of an index that `revoke_all` marks in one call."""


# 24 November 2026, a shared machine with 2 cores, Redis 8.0.2 over TCP on the same machine,
# Python 3.11: the median of four runs.
FIGURES = Figures(
    record=139,
    data=1.28,
    index=293,
    entry=180,
    read=18,
    read_of_many=1.3,
    change=40,
    touch=90,
    sign_in=94,
    worker=22,
    end_all=5.4,
)


@dataclass(frozen=True)
class Load:
    """What is asked of it. `rate` is requests that have a session, in a second."""

    sessions: int
    rate: float
    data: int = 300
    """Bytes of encoded data in a session."""
    changes: float = 0.10
    """The share of requests that change their session; then those that touch it, or sign in."""
    touches: float = 0.05
    sign_ins: float = 0.005
    near: float = 0.0
    """The share of requests that near copies answer: none without `client_cache=`."""
    application: float = 2_000
    """Microseconds of CPU that the application itself takes for a request."""


@dataclass(frozen=True)
class Limits:
    """How full anything may be."""

    memory: float = 16 * GIB
    """Of sessions in one shard: what a failover can copy again in minutes."""
    spare: float = 1.3
    """Of each byte, for fragmentation, buffers and the rewriting of the append-only file."""
    redis: float = 0.5
    """Of a shard's one core, so that the loss of a shard or a slow script is no queue."""
    worker: float = 0.6
    """Of a worker's core."""


class Plan(NamedTuple):
    """`memory` is bytes in all shards, `redis` their cores at this rate, `network` bytes/s."""

    memory: float
    redis: float
    shards: int
    workers: int
    network: float


def plan(load: Load, figures: Figures = FIGURES, limits: Limits = Limits()) -> Plan:
    """What it takes; one session of one principal each."""
    session = figures.record + figures.data * load.data + figures.index
    memory = load.sessions * session * limits.spare
    request = (
        (1 - load.near) * figures.read
        + load.changes * figures.change
        + load.touches * figures.touch
        + load.sign_ins * figures.sign_in
    )
    redis = load.rate * request / 1e6
    shards = max(ceil(memory / limits.memory), ceil(redis / limits.redis), 1)
    worker = load.rate * (figures.worker + load.application) / 1e6
    network = load.rate * (load.data + 95 + 60) * (1 - load.near + load.changes + load.touches)
    return Plan(memory, redis, shards, max(1, ceil(worker / limits.worker)), network)


LOADS = (
    Load(10_000, 50),
    Load(1_000_000, 1_000),
    Load(10_000_000, 10_000),
    Load(100_000_000, 100_000),
)


# -- the loss of shards


class Loss(NamedTuple):
    """Means over many draws, but for `worst`; shares of all sessions, or of the draws."""

    away: float
    """Of the sessions: at first, until replicas have taken over."""
    stalled: float
    """Of the draws: too few primaries are left to agree that a replica takes over."""
    any: float
    """Of the draws: some sessions are on no machine any more."""
    mean: float
    """Of the sessions: on no machine any more."""
    worst: float
    """The most of any draw."""


def slots_of(shards: int) -> list[int]:
    """Which shard has each slot: equal, contiguous ranges, as Redis Cluster makes them."""
    return [slot * shards // SLOTS for slot in range(SLOTS)]


def session_keys(count: int, seed: int) -> list[str]:
    """Keys as the store makes them: a prefix and 20 characters of base64url."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    draw = random.Random(seed)  # noqa: S311 - nobody has to guess it
    return ["session:" + "".join(draw.choices(alphabet, k=20)) for _ in range(count)]


def shard_shares(keys: Iterable[str], shards: int, weights: Iterable[float] = ()) -> list[float]:
    """The share of each shard: of the keys, or of their weights."""
    owner, shares = slots_of(shards), [0.0] * shards
    counted = list(keys)
    for key, weight in zip(counted, list(weights) or [1.0] * len(counted), strict=True):
        shares[owner[key_slot(key.encode())]] += weight
    total = sum(shares)
    return [share / total for share in shares]


def shard_loss(
    shares: Sequence[float], lost: int, *, replicas: int = 0, draws: int = 2_000, seed: int = 1
) -> Loss:
    """`lost` machines at once, each with one server; a shard is a primary and its replicas."""
    shards = range(len(shares))
    machines = [(shard, number) for shard in shards for number in range(replicas + 1)]
    draw = random.Random(seed)  # noqa: S311
    found = [_lost(shares, draw.sample(machines, lost), replicas) for _ in range(draws)]
    away, stalled, gone = zip(*found, strict=True)
    return Loss(
        fmean(away), fmean(stalled), fmean(share > 0 for share in gone), fmean(gone), max(gone)
    )


def _lost(
    shares: Sequence[float], down: Sequence[tuple[int, int]], replicas: int
) -> tuple[float, bool, float]:
    """Of one draw: `away`, whether it stalls, and what is gone. Number 0 is the primary."""
    primaries = [shard for shard, number in down if number == 0]
    dead = Counter(shard for shard, _ in down)
    stalls = bool(primaries) and replicas > 0 and len(primaries) >= len(shares) / 2
    gone = sum(shares[shard] for shard, count in dead.items() if count == replicas + 1)
    return sum(shares[shard] for shard in primaries), stalls, gone


# -- hot keys


class Heat(NamedTuple):
    """Shares of all load: the busiest session's, the busiest shard's, and an equal shard's."""

    session: float
    shard: float
    equal: float


def heat(keys: Sequence[str], shards: int, exponent: float) -> Heat:
    """Sessions are used as Zipf's law has it: the n-th as often as 1 / n ** exponent."""
    weights = [(rank + 1) ** -exponent for rank in range(len(keys))]
    shares = shard_shares(keys, shards, weights)
    return Heat(weights[0] / sum(weights), max(shares), 1 / shards)


# -- what is printed


def plan_rows(loads: Iterable[Load] = LOADS) -> list[str]:
    """The rows of the table in docs/scaling.md."""
    rows: list[str] = []
    for load in loads:
        found = plan(load)
        rows.append(
            f"| {load.sessions:,} | {load.rate:,} | {_gib(found.memory)} | {found.redis:.2g} "
            f"| {found.shards} | {found.workers:,} | {found.network / 1e6:.2g} |"
        )
    return rows


def loss_rows(keys: Sequence[str]) -> list[str]:
    """Shards, replicas of each, machines lost; then the fields of `Loss`."""
    rows: list[str] = []
    for shards, replicas, lost in (
        (3, 0, 1), (3, 1, 1), (3, 1, 2), (3, 2, 2), (12, 0, 1), (12, 1, 1), (12, 1, 2), (12, 1, 3),
        (12, 2, 3),
    ):  # fmt: skip
        found = shard_loss(shard_shares(keys, shards), lost, replicas=replicas)
        shown = " | ".join(f"{share:.1%}" for share in found)
        rows.append(f"| {shards} | {replicas} | {lost} of {shards * (1 + replicas)} | {shown} |")
    return rows


def heat_rows(keys: Sequence[str]) -> list[str]:
    """Exponent, shards: shares of the busiest session, of the busiest shard, of an equal one."""
    rows: list[str] = []
    for exponent in (0.0, 0.8, 1.0, 1.2):
        for shards in (3, 12):
            found = heat(keys, shards, exponent)
            rows.append(
                f"| {exponent:g} | {shards} | {found.session:.2%} | {found.shard:.1%} "
                f"| {found.equal:.1%} | {found.shard / found.equal:.2f} |"
            )
    return rows


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size > 0.1 * GIB else f"{size / 1024**2:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity")
    parser.add_argument("--measure", action="store_true", help="measure, and print the figures")
    parser.add_argument("--sessions", type=int, default=30_000, help="how many to measure with")
    given = parser.parse_args()
    if given.measure:
        from benchmarks.capacity_measured import measured

        figures = asdict(measured(given.sessions))
        print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
        return
    keys = session_keys(100_000, seed=1)
    for title, rows in (
        ("sessions | requests/s | memory | Redis cores | shards | workers | MB/s", plan_rows()),
        (
            "shards | replicas | machines lost | away | stalled | any gone | mean | worst",
            loss_rows(keys),
        ),
        ("exponent | shards | session | busiest shard | equal shard | ratio", heat_rows(keys)),
    ):
        print(f"| {title} |", *rows, "", sep="\n")


if __name__ == "__main__":
    main()

"""A primary is killed under many watched sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from redis.crc import key_slot

from redis_sessions.testing.topology import ClusterTopology, Node, SentinelTopology
from tests.support.deployments import until
from tests.torture.sockets.clients import Open
from tests.torture.sockets.figures import Fact, Times
from tests.torture.sockets.fleet import Worker, each
from tests.torture.sockets.places import Place

SETTLED: Final = 5.0
"""Seconds after which everything was read again that is going to be: twice the bound, and more."""
_MOST_READS: Final = 4
"""How often a watched key may be read on the new primary, as a mean."""

Watched = SentinelTopology | ClusterTopology


async def killed(
    place: Place,
    running: Watched,
    workers: Sequence[Worker],
    sockets: int,
    ended: int,
    settles: float = SETTLED,
) -> list[Times | Fact]:
    """Kill a primary; afterwards `ended` sessions are signed out, whose sockets must end."""
    opened = await each(range(sockets), lambda number: _open(workers, number))
    victim, heirs = await asyncio.to_thread(_roles, running)
    slots = await asyncio.to_thread(_slots, running, victim)
    concerned = [s for s in opened if any(_slot(place, s) in part for part in slots)]
    await until(lambda: asyncio.to_thread(_is_replicated, victim))
    victim.kill()
    began = time.monotonic()
    first, others = concerned[: len(workers)], concerned[len(workers) : ended]
    answered = await each(first, lambda socket: _until_signed_out(workers[1], socket))
    worked = [await socket.end() for socket in first]
    await asyncio.to_thread(_wait_promoted, running, victim, heirs)
    await asyncio.sleep(settles)
    heir = await asyncio.to_thread(_promoted, heirs)
    reads = await asyncio.to_thread(_reads, heir)
    ends = await each(others, lambda socket: _end(workers[1], socket))
    kept = [socket for socket in opened if socket not in {*first, *others}]
    wrong = [socket for socket in kept if not socket.lives]
    assert not wrong, f"{len(wrong)} sockets ended whose session is there: {wrong[0].ended}"
    assert reads["keys"] <= _MOST_READS * len(concerned), reads
    for socket in opened:
        socket.close()
    what = f"a primary is killed under {sockets} sockets"
    return [
        Times(
            f"{what}: until a sign-out is answered",
            place.name,
            [answer - began for answer in answered],
        ),
        Times(
            f"{what}: from then to the end of its socket",
            place.name,
            [end - answer for end, answer in zip(worked, answered, strict=True)],
        ),
        Times(f"{what}: later sign-outs, from the answer", place.name, ends),
        Fact(f"{what}: ended although their session is there", place.name, str(len(wrong))),
        Fact(
            f"{what}: reads on the new primary until {settles:g} s after",
            place.name,
            f"{reads['keys']} keys in {reads['commands']} commands, of {len(concerned)} watched",
        ),
    ]


async def _open(workers: Sequence[Worker], number: int) -> Open:
    worker = workers[number % len(workers)]
    token = await worker.sign_in(f"user-{number}")
    return await worker.open("/socket", token)


def _slot(place: Place, socket: Open) -> int:
    return key_slot((place.prefix + socket.token[:20]).encode())


async def _end(worker: Worker, socket: Open) -> float:
    answered = await _until_signed_out(worker, socket)
    return await socket.end() - answered


async def _until_signed_out(worker: Worker, socket: Open) -> float:
    """When a sign-out was answered with 200; any other answer is 503, while nobody serves it."""
    async with asyncio.timeout(60):
        while (answer := await worker.ask("POST", "/sign-out", socket.token)).status != 200:
            assert answer.status == 503, answer
            await asyncio.sleep(0.02)
    return answer.at


def _roles(running: Watched) -> tuple[Node, Sequence[Node]]:
    """The primary that is killed, and who may take its place."""
    if isinstance(running, SentinelTopology):
        return running.primary, running.replicas
    victim = running.nodes[0]
    return victim, running.replicas_of(victim)


def _slots(running: Watched, node: Node) -> list[range]:
    """The slots that it serves. Behind Sentinels there are none, and it serves everything."""
    if isinstance(running, SentinelTopology):
        return [range(16_384)]
    slots = node.ask("CLUSTER", "SLOTS")
    return [range(first, last + 1) for first, last, who, *_ in slots if who[1] == node.port]


def _is_replicated(primary: Node) -> bool:
    """Whether all its replicas have everything."""
    with primary.connect(decode_responses=True) as client:
        info: Any = client.info("replication")
    replicas = [value for name, value in info.items() if name[:5] == "slave" and name[5:].isdigit()]
    return bool(replicas) and all(r["offset"] == info["master_repl_offset"] for r in replicas)


def _wait_promoted(running: Watched, victim: Node, heirs: Sequence[Node]) -> None:
    if isinstance(running, SentinelTopology):
        running.wait_promoted(victim)
    else:
        running.wait_promoted(heirs[0])


def _promoted(heirs: Sequence[Node]) -> Node:
    return next(node for node in heirs if node.role() == "primary")


def _reads(node: Node) -> dict[str, int]:
    """How many keys it was asked for, and in how many commands, since it was started."""
    with node.connect(decode_responses=True) as client:
        stats: Any = client.info("stats")
        commands: Any = client.info("commandstats")
    found = stats["keyspace_hits"] + stats["keyspace_misses"]
    calls = [
        commands[name]["calls"] for name in ("cmdstat_mget", "cmdstat_get") if name in commands
    ]
    return {"keys": found, "commands": sum(calls)}

"""python -m benchmarks.staleness: from a write in one process until another one serves it.

One process changes a session through its application, and another one reads the same session again
and again through its own, until it gets the new data. It is measured with near copies, and without
them: then each read asks Redis. Time counts from the moment at which the change was requested, and
once more from its answer. *Loaded* means that both processes serve other requests all the time, of
which one in eight changes a session.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import driver, figures
from benchmarks.driver import Client, Progress, percentile
from benchmarks.peers import NEAR, OURS, PEERS, missing
from benchmarks.servers import program, version_of
from benchmarks.shop import SECRET
from redis_sessions.testing.topology import cluster, sentinel, single

__all__ = ["BUCKETS", "FULL", "QUICK", "Size", "measure"]

BUCKETS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Milliseconds; the last bucket is what took longer."""
PATIENCE = 30.0  # seconds, for one write to be seen
DEPLOYMENTS: Mapping[str, Callable[..., AbstractContextManager[Any]]] = {
    "single server": single,
    "Sentinel": sentinel,
    "Cluster of 3": partial(cluster, 3, 0, node_timeout_ms=15_000),
}


@dataclass(frozen=True)
class Size:
    """How much is measured. `idle` and `loaded`: the writes of each; `lanes`: of the load."""

    deployments: Sequence[str] = tuple(DEPLOYMENTS)
    idle: int = 1_000
    loaded: int = 300
    sessions: int = 16
    lanes: int = 32


FULL = Size()
QUICK = Size(deployments=("single server",), idle=5, loaded=5, sessions=2, lanes=2)


# -- the two processes


@asynccontextmanager
async def load(app: Any, lanes: int) -> AsyncGenerator[None]:
    """So many browsers that make one request after the other."""

    async def lane(client: Client) -> None:
        while True:
            for path in ("/read",) * 7 + ("/change",):
                await client.request(path)
                await asyncio.sleep(0)  # as a server does between two requests

    tasks = [asyncio.ensure_future(lane(each)) for each in await driver.sign_in_all(app, lanes)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def read(peer: str, url: str, cookies: Sequence[bytes], plan: Sequence[int], ask: Any) -> None:
    """The process that reads. `plan`: how many writes there are, and lanes of load, in turns."""
    driver.run(_read(peer, url, cookies, plan, ask))


async def _read(
    peer: str, url: str, cookies: Sequence[bytes], plan: Sequence[int], ask: Connection
) -> None:
    async with driver.running(PEERS[peer].app(url)) as app:
        clients = [Client(app) for _ in cookies]
        for client, cookie in zip(clients, cookies, strict=True):
            client.cookie = cookie
            await client.request("/read")
        for writes, lanes in zip(plan[::2], plan[1::2], strict=True):
            if lanes:
                async with load(app, lanes):
                    await _see(clients, writes, ask)
            else:
                await _see(clients, writes, ask)


async def _see(clients: Sequence[Client], writes: int, ask: Connection) -> None:
    """Send the moment at which each write was first served."""
    for client in clients:
        await client.request("/read")
    ask.send("ready")
    for number in range(writes):
        client = clients[number % len(clients)]
        before = client.body
        async with asyncio.timeout(PATIENCE):
            while client.body == before:
                await asyncio.sleep(0)
                await client.request("/read")
        ask.send(time.monotonic())


async def write(clients: Sequence[Client], writes: int, seen: Connection) -> list[list[float]]:
    """For each write, the milliseconds until it was served: since its request, and its answer."""
    draw = random.Random(1)  # noqa: S311 - nobody has to guess it
    await asyncio.to_thread(seen.recv)
    found: list[list[float]] = []
    for number in range(writes):
        await asyncio.sleep(draw.uniform(0.001, 0.003))
        start = time.monotonic()
        await clients[number % len(clients)].request("/change")
        answered = time.monotonic()
        served: float = await asyncio.to_thread(seen.recv)
        found.append([(served - start) * 1e3, max(0.0, served - answered) * 1e3])
    return found


# -- what is made of it


async def between(peer: str, url: str, size: Size) -> dict[str, list[list[float]]]:
    """The times of all writes, while idle and while loaded."""
    os.environ["BENCH_SECRET"] = SECRET  # the process that reads has the same key
    here, there = multiprocessing.Pipe()
    async with driver.running(PEERS[peer].app(url)) as app:
        clients = await driver.sign_in_all(app, size.sessions)
        plan = [size.idle, 0, size.loaded, size.lanes]
        process = multiprocessing.get_context("spawn").Process(
            target=read, args=(peer, url, [client.cookie for client in clients], plan, there),
            daemon=True,
        )  # fmt: skip
        process.start()
        there.close()  # so that its end is noticed
        try:
            idle = await write(clients, size.idle, here)
            async with load(app, size.lanes):
                loaded = await write(clients, size.loaded, here)
        finally:
            process.terminate()
            await asyncio.to_thread(process.join)
    return {"idle": idle, "loaded": loaded}


def summary(times: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(times)
    shares = {"p50": 0.5, "p99": 0.99, "worst": 1.0}
    counts = [sum(time <= bucket for time in ordered) for bucket in BUCKETS]
    steps = [high - low for low, high in zip([0, *counts], [*counts, len(ordered)], strict=True)]
    return {
        **{f"{name}_ms": round(percentile(ordered, share), 3) for name, share in shares.items()},
        "histogram": steps,
    }


def measure(size: Size = FULL, progress: Progress = print) -> dict[str, Any]:
    """With and without near copies, on each deployment."""
    rows: list[dict[str, Any]] = []
    peers = [name for name in (OURS, NEAR) if not missing(PEERS[name])]
    for deployment in size.deployments:
        with DEPLOYMENTS[deployment](server=program("redis")) as topology:
            for peer in peers:
                for state, times in driver.run(between(peer, topology.url, size)).items():
                    row = {"deployment": deployment, "peer": peer, "state": state}
                    columns = zip(*times, strict=True)
                    for since, column in zip(("request", "answer"), columns, strict=True):
                        found = summary(column)
                        rows.append({**row, "since": since, "writes": len(times), **found})
                        progress(line(rows[-1]))
    return {"buckets_ms": list(BUCKETS), "staleness": rows}


def line(row: Mapping[str, Any]) -> str:
    shown = " / ".join(f"{row[f'{name}_ms']:.3f}" for name in ("p50", "p99", "worst"))
    where = f"{row['deployment']}, {row['peer']}, {row['state']}, since its {row['since']}"
    return f"{where}: {shown} ms"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staleness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny run, to see that it runs")
    found = measure(QUICK if parser.parse_args().quick else FULL)
    from benchmarks.near_tables import staleness  # which reads what this module has made

    print(f"\n{version_of('redis')}, {figures.processor()}\n\n{staleness({'staleness': found})}")


if __name__ == "__main__":
    main()

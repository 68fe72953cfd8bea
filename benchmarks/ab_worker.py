"""One checkout's turn in `ab`: the same blocks in turns, in a process that has only this checkout.

It is started by `ab`, which puts the checkout in front on the path. It uses of the library what a
user would, so that any checkout can be measured with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from starlette.types import ASGIApp

from benchmarks import driver, shop
from benchmarks.driver import Client, Sample, block

__all__ = ["main"]

Taken = dict[str, list[Sample]]


def contenders() -> Mapping[str, Callable[[str], ASGIApp]]:
    """Without sessions, the yardstick, ours, and ours with near copies where they exist."""
    found = {"none": shop.nothing, "cookie": shop.cookie, "ours": shop.ours}
    return {**found, "near": shop.near_copies} if shop.has_near_copies() else found


async def measure(url: str, cells: list[tuple[str, int]], rounds: int, seconds: float) -> Any:
    """For each cell and contender, the CPU and time of a request in each round."""
    found: list[dict[str, Any]] = []
    most = max(lanes for _, lanes in cells)
    async with AsyncExitStack() as stack:
        browsers: dict[str, list[Client]] = {}
        for name, make in contenders().items():
            app = await stack.enter_async_context(driver.running(make(url)))
            if name == "none":
                browsers[name] = [Client(app) for _ in range(most)]
            else:
                browsers[name] = await driver.sign_in_all(app, most)
        for bare, other in zip(browsers["none"], browsers["cookie"], strict=True):
            bare.cookie = other.cookie  # the same headers, read or not
        with driver.frozen():
            for operation, lanes in cells:
                taken = await cell(browsers, operation, lanes, rounds, seconds)
                found.append({"operation": operation, "lanes": lanes, "taken": taken})
    errors = {name: sum(client.errors for client in some) for name, some in browsers.items()}
    return {"cells": found, "errors": errors}


async def cell(
    browsers: Mapping[str, list[Client]], operation: str, lanes: int, rounds: int, seconds: float
) -> Taken:
    path, each = f"/{operation}", dict[str, int]()
    for name, clients in browsers.items():  # it warms up, and shows how long a block has to be
        first = await block(clients[:lanes], path, max(2, 128 // lanes))
        each[name] = driver.sized(first.wall, seconds, lanes, 2)
    taken: Taken = {name: [] for name in browsers}
    driver.settle()
    for number in range(rounds):
        for name in driver.turns(list(browsers), number):
            taken[name].append(await block(browsers[name][:lanes], path, each[name]))
    return taken


def main() -> None:
    given = json.loads(sys.argv[1])
    with driver.pinned():
        found = driver.run(measure(given["url"], given["cells"], given["rounds"], given["seconds"]))
    print(json.dumps(found))

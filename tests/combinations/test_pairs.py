"""Two values together do what each of them does alone, and nothing else."""

from __future__ import annotations

import pytest

from tests.combinations.effects import REFUSED, TOGETHER
from tests.combinations.grounds import Memory, OnRedis
from tests.combinations.net import Net, pairs_on


async def test_all_pairs_in_memory() -> None:
    """Each pair of values, in each journey; each line of the tables is needed by a pair."""
    net = Net(Memory())
    found = [each for pair in pairs_on(net.ground) for each in await net.together(*pair)]
    assert not found, "\n".join(map(str, found))
    needless = {*TOGETHER, *REFUSED} - net.needed
    assert not [line for line in needless if not line.on_redis]


async def test_pairs_on_redis(on_redis: OnRedis) -> None:
    """Each pair with what only a Redis has: replicas, near copies, waiting for replicas."""
    net = Net(on_redis)
    found = [each for pair in pairs_on(net.ground) for each in await net.together(*pair)]
    assert not found, "\n".join(map(str, found))

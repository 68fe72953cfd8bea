"""Each value together with `replicas=read`; `tests.torture` has all pairs that need a Redis."""

from __future__ import annotations

import pytest

from tests.combinations.effects import TOGETHER
from tests.combinations.grounds import OnRedis
from tests.combinations.net import Net, pairs_on


@pytest.mark.timeout(400)
async def test_replicas(on_redis: OnRedis) -> None:
    """Each line of the table for them is needed by a pair."""
    net = Net(on_redis)
    pairs = [pair for pair in pairs_on(on_redis) if "url" in {value.option for value in pair}]
    found = [each for pair in pairs for each in await net.together(*pair)]
    assert not found, "\n".join(map(str, found))
    assert not [line for line in TOGETHER if line.needs_redis and line not in net.needed]

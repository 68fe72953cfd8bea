"""Two values together do what each of them does alone, and nothing else."""

from __future__ import annotations

import pytest

from tests.combinations.effects import REFUSED, TOGETHER
from tests.combinations.grounds import Memory
from tests.combinations.net import Net, pairs_on


@pytest.mark.timeout(400)
async def test_all_pairs_in_memory() -> None:
    """Each pair of values, in each journey; and each line of the tables is needed by a pair."""
    net = Net(Memory())
    found = [each for pair in pairs_on(net.ground) for each in await net.together(*pair)]
    assert not found, "\n".join(map(str, found))
    needless = [line for line in (*TOGETHER, *REFUSED) if line not in net.needed]
    assert not [line for line in needless if not line.needs_redis]

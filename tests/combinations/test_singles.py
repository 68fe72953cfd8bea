"""One value changes what docs/ says that it changes, and nothing else."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from redis_sessions import RedisStore, SessionManager, SessionMiddleware
from tests.combinations.effects import EFFECTS, TOGETHER
from tests.combinations.grounds import Memory, OnRedis
from tests.combinations.net import Net, values_on
from tests.combinations.values import ELSEWHERE, VALUES

DOCS = Path(__file__).parents[2] / "docs"


async def test_a_value_changes_what_its_documentation_says() -> None:
    """Over a store in memory; each line of the table is needed by a value."""
    net = Net(Memory())
    found = [each for value in values_on(net.ground) for each in await net.alone(value)]
    assert not found, "\n".join(map(str, found))
    on_redis = [str(value) for value in VALUES if value.only_on == "redis"]
    assert not [e for e in EFFECTS if e not in net.needed and e.value not in on_redis]


async def test_on_redis(on_redis: OnRedis) -> None:
    """Over a Redis: what only a Redis has; and without any value all is as it is in memory."""
    here, there = Net(Memory()), Net(on_redis)
    for journey in here.journeys:
        if journey != "expiring":  # in Redis a key is gone by then; its event has another reason
            assert await there.known(journey) == await here.known(journey), journey
    values = [
        value for value in VALUES if value.only_on == "redis" or value.option == "client_cache"
    ]
    found = [each for value in values for each in await there.alone(value)]
    assert not found, "\n".join(map(str, found))


def test_every_option_has_a_value() -> None:
    """An option that is added to the middleware, the manager or the store needs one."""
    known = {value.option for value in VALUES} | ELSEWHERE.keys()
    for function in (SessionMiddleware, SessionManager, RedisStore):
        for name in inspect.signature(function).parameters:
            assert name in known, f"tests/combinations/values.py has no value of {name}="


@pytest.mark.parametrize("says", sorted({line.says for line in (*EFFECTS, *TOGETHER)}))
def test_a_line_leads_to_the_documentation(says: str) -> None:
    """The page is there, and has the section."""
    page, _, anchor = says.partition("#")
    text = (DOCS / page).read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
    assert not anchor or anchor in anchors, anchors

"""Most requests ask the store once for their session, before anything else is made for them."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from redis_sessions import Keyring, Session, SessionManager
from redis_sessions.http.connection import Connection
from redis_sessions.session.state import State
from tests.unit.edge.edge import Edge, responding
from tests.unit.setting import KEY


def made() -> int:
    """How many connections and sessions there are."""
    return sum(isinstance(each, (Connection, State)) for each in gc.get_objects())


async def test_a_request_that_waits_holds_little(at: Edge) -> None:
    """Its connection and its session are made when the store has answered."""
    token = await at.begin({"n": 1})
    counts = list[int]()

    async def look() -> None:
        counts.append(made())

    at.away.loaded = look
    gc.collect()  # what other tests have left
    before = made()
    await at.serve(responding(lambda session: counts.append(made())), token)
    assert counts == [before, before + 2]


async def test_a_request_of_another_site_asks_for_nothing(at: Edge) -> None:
    """Whoever has no session because another origin caused the request doesn't wait for it."""
    token = await at.begin({"n": 1})
    asked = list[str]()

    async def look() -> None:
        asked.append("load")

    at.away.loaded = look
    other = [(b"sec-fetch-site", b"cross-site")]
    await at.serve(responding(), token, headers=other, scope={"method": "POST"})
    assert (at.status, asked) == (200, [])


@pytest.mark.parametrize("options", [{}, {"lazy": False, "binding": "ip"}])
async def test_a_load_of_its_own(at: Edge, options: dict[str, Any]) -> None:
    """A manager that has one is asked for each session."""
    calls = list[Any]()

    class Own(SessionManager):
        async def load(self, token: Any = None, **options: Any) -> Session:
            calls.append(token)
            return await super().load(token, **options)

    token = await at.begin({"n": 1})
    at.manager = Own(at.store, Keyring(KEY), clock=at.clock)
    found = list[Session]()
    await at.serve(responding(found.append), token, **options)
    assert (calls, found) == ([[token]], [{"n": 1}])

"""A bounded selection of what `python -m tests.explorer` explores in full (`make torture`).

Here each scenario of a family is explored, up to a few of its orders where it has many.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.explorer.actors import Worker
from tests.explorer.backends import Backend, MemoryBackend, RedisBackend
from tests.explorer.families import (
    CORE,
    FAULTS,
    INDEX_FAULTS,
    admin,
    aliases,
    crossing_steps,
    marks,
    pairs,
    proofs,
    singles,
    steps,
    triples,
)
from tests.explorer.player import Player
from tests.explorer.scenario import Scenario
from tests.explorer.search import Explorer, independent

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

BOUND = 2000  # interleavings of one scenario


async def _hold(backend: Backend, scenarios: Iterable[Scenario], bound: int = BOUND) -> None:
    explorer = Explorer(backend, bound=bound)
    for scenario in scenarios:
        await explorer.explore(scenario)
    result = explorer.result
    print(f"{result.scenarios} scenarios, {result.runs} interleavings, {result.cut} cut")
    assert not result.violations, result.report()


async def test_singles_with_every_fault(memory: MemoryBackend) -> None:
    await _hold(memory, singles())


async def test_all_pairs(memory: MemoryBackend) -> None:
    await _hold(memory, pairs(), bound=10)


async def test_revocations(memory: MemoryBackend) -> None:
    await _hold(memory, admin(), bound=25)


async def test_pairs_with_every_fault(memory: MemoryBackend) -> None:
    await _hold(memory, pairs(FAULTS, ("a+due", "inA", "out")), bound=25)


async def test_revocations_with_every_fault(memory: MemoryBackend) -> None:
    await _hold(memory, admin(FAULTS, ("touch", "inA", "out")), bound=10)


async def test_some_triples(memory: MemoryBackend) -> None:
    await _hold(memory, triples(kinds=("a", "touch", "out")), bound=20)


async def test_singles_on_a_server(backend: RedisBackend) -> None:
    await _hold(backend, singles((None, "lost", "away", "failover record", "failover index")))


async def test_what_a_failover_undid_is_repeated(backend: RedisBackend) -> None:
    """Once who answered has connected again, nothing opens that it had ended or replaced."""
    fault = ("failover repeated",)
    await _hold(backend, singles(fault))
    await _hold(backend, pairs(fault, ("rotate", "reA", "out")), bound=60)


async def test_pairs_on_a_server(backend: RedisBackend) -> None:
    await _hold(backend, pairs(kinds=CORE), bound=10)


async def test_revocations_on_a_server(backend: RedisBackend) -> None:
    await _hold(backend, admin(kinds=("touch", "inA", "reA", "out")), bound=25)


async def test_steps_of_revoke_all(narrow: MemoryBackend) -> None:
    await _hold(narrow, steps(), bound=25)
    await _hold(narrow, steps(INDEX_FAULTS, ("touch@9", "reA", "out@9")), bound=12)
    await _hold(narrow, crossing_steps(("crash",), ("touch@9", "inA@-")), bound=12)


async def test_bounded_marks(narrow: MemoryBackend) -> None:
    await _hold(narrow, marks(), bound=10)
    faults = ("failover record", "failover index", "behind")
    await _hold(narrow, marks(faults, ("touch",)), bound=6)


async def test_ends_by_alias(narrow: MemoryBackend) -> None:
    await _hold(narrow, aliases(kinds=("touch", "inT", "resetS", "inS@-")), bound=10)
    await _hold(narrow, aliases(("failover record", "crash"), ("touch", "inT")), bound=6)


async def test_ends_by_alias_on_a_server(narrow_backend: RedisBackend) -> None:
    await _hold(narrow_backend, aliases(("failover record",), ("inS",)), bound=4)


async def test_times_of_entries(narrow_backend: RedisBackend) -> None:
    await _hold(narrow_backend, proofs(), bound=6)


async def test_reset_though_the_entry_was_lost(memory: MemoryBackend) -> None:
    """`revoke_all(A)`, then signed in as A, in a session that the index has forgotten."""
    async with Player(memory, "Alost", "resetA") as play:
        await play.whole(1)
        assert (await play.touch()).principal == "A"


async def test_revocation_overtakes_a_sign_in_on_its_way(memory: MemoryBackend) -> None:
    """The sign-in's operation is under way while `revoke_all` is carried out."""
    await _hold(memory, [Scenario("none", ("inA", "all"), transit=True)])


async def test_keep_of_nobodys_session(memory: MemoryBackend) -> None:
    """An anonymous session's id, kept by `revoke_all(A)`, doesn't become one of A's."""
    store, clock = memory.store, memory.clock
    manager = Worker(store, clock, lambda _: None)
    session = await manager.load(None)
    session["cart"] = 1
    await manager.commit(session)
    await manager.revoke_all("A", keep=session.id)
    assert await manager.sessions_of("A") == []


def test_independence() -> None:
    """Readers commute; a writer commutes with nobody on the same thing."""
    read, write, other = {"x": False}, {"x": True}, {"y": True}
    assert independent(read, read)
    assert independent(write, other)
    assert not independent(read, write)
    assert not independent(write, write)
    assert not independent({"*": True}, read)

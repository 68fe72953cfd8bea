"""Near copies, and sockets that watch: some orders of each scenario, always the same ones.

`python -m tests.explorer` (`make torture`) takes a hundred of each.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.explorer.backends import MemoryBackend
from tests.explorer.near_families import (
    FAULTS,
    changes,
    ends,
    own_changes,
    sign_ins,
    sockets,
    touches,
)
from tests.explorer.near_player import NearPlayer
from tests.explorer.near_world import NearWorld
from tests.explorer.scenario import Scenario
from tests.explorer.search import Explorer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def _hold(backend: MemoryBackend, scenarios: Iterable[Scenario], walks: int) -> None:
    explorer = Explorer(backend, world=NearWorld)
    for scenario in scenarios:
        await explorer.walk(scenario, walks)
    result = explorer.result
    print(f"{result.scenarios} scenarios, {result.runs} interleavings")
    assert not result.violations, result.report()


async def test_all_orders_of_some(memory: MemoryBackend) -> None:
    explorer = Explorer(memory, bound=300, world=NearWorld)
    for procs in ((0, 1), (0, 0)):
        await explorer.explore(Scenario("A", ("a", "b"), procs=procs))
        await explorer.explore(Scenario("A", ("read@first", "rotate"), procs=procs))
    assert not explorer.result.violations, explorer.result.report()


async def test_ends(memory: MemoryBackend) -> None:
    await _hold(memory, ends(), 2)


async def test_ends_with_every_fault(memory: MemoryBackend) -> None:
    await _hold(memory, ends(FAULTS[1:], ("out", "rotate", "revoke")), 3)


async def test_changes_on_old_copies(memory: MemoryBackend) -> None:
    await _hold(memory, changes(FAULTS), 2)


async def test_own_changes(memory: MemoryBackend) -> None:
    await _hold(memory, own_changes(FAULTS), 3)


async def test_touches_of_copies(memory: MemoryBackend) -> None:
    await _hold(memory, touches(), 4)


async def test_sign_ins_in_copies(memory: MemoryBackend) -> None:
    await _hold(memory, sign_ins(), 6)


async def test_sockets(memory: MemoryBackend) -> None:
    await _hold(memory, sockets(FAULTS, ("out", "rotate", "all", "a")), 3)


# -- the traces that are known, by their numbers


@pytest.mark.parametrize("kind", ["rotate", "out", "clear", "inB"])
async def test_36_what_a_process_has_itself_ended(memory: MemoryBackend, kind: str) -> None:
    """A process serves no copy of what it has itself rotated or ended."""
    async with NearPlayer(memory, "A", kind, "read@first", procs=(0, 0), warm=True) as play:
        await play.finish(1)
        await play.finish(2)
        assert play.served(1)
        assert not play.served(2)


async def test_37_a_link_that_is_closed_silently(memory: MemoryBackend) -> None:
    """Nobody is told of later writes. The copy is served within the bound, and not after it."""
    specs, fault = ("read@first", "read@first", "out"), "link silent"
    async with NearPlayer(memory, "A", *specs, procs=(0, 0, 1), fault=fault, warm=True) as play:
        await play.do(fault, 0, "0")
        await play.finish(3)
        await play.do("leave", 1)
        await play.do("bound")
        await play.do("leave", 2)
        assert play.served(1)
        assert not play.served(2)
        await play.do("finds", 0, "0")


async def test_38_a_demoted_primary_that_answers(memory: MemoryBackend) -> None:
    """The heartbeat asks for the role: a replica's answer proves nothing."""
    specs = ("read@first", "out")
    async with NearPlayer(memory, "A", *specs, procs=(0, 1), fault="demoted", warm=True) as play:
        await play.do("demoted")
        await play.do("finds", 0, "1")
        await play.finish(2)
        await play.do("bound")
        await play.beat(0)
        await play.do("leave", 1)
        assert not play.served(1)


async def test_39_a_reply_that_was_under_way(memory: MemoryBackend) -> None:
    """The reply to a read comes after the key has changed: the notice of that comes next."""
    specs = ("read@first", "read@first", "read@first", "out")
    async with NearPlayer(memory, "A", *specs, procs=(0, 0, 0, 1)) as play:
        await play.do("leave", 1)
        await play.do("op", 1)
        await play.finish(4)
        await play.hear(0)
        await play.do("leave", 2)
        await play.hear(0)
        await play.do("leave", 3)
        assert play.served(2)
        assert not play.served(3)


async def test_40_a_copy_of_what_was_written(memory: MemoryBackend) -> None:
    """The writer is told of the next change, since the script has read the key afterwards."""
    specs = ("a", "read@first", "read@first", "out")
    async with NearPlayer(memory, "A", *specs, procs=(0, 0, 0, 1)) as play:
        await play.finish(1)
        await play.hear(0)  # of its own write
        await play.do("leave", 2)
        await play.finish(4)
        await play.hear(0)
        await play.do("leave", 3)
        assert play.served(2)
        assert not play.served(3)


@pytest.mark.parametrize("kind", ["out", "rotate", "revoke"])
async def test_a_socket_ends(memory: MemoryBackend, kind: str) -> None:
    """It ends when its process has heard of the change, and has read the key again."""
    async with NearPlayer(memory, "A", "socket", kind, procs=(0, 1)) as play:
        await play.finish(1)
        await play.do("read", 0, "0/0")
        await play.hear(0)
        await play.finish(2)
        await play.hear(0)
        assert not play.world.closed
        await play.do("read", 0, "0/0")
        await play.hear(0)
        assert play.world.closed == {1}

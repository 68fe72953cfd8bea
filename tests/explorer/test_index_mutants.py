"""The explorer finds out what breaks when a mechanism of the index is switched off."""

from __future__ import annotations

import pytest

from redis_sessions.lifecycle.writer import Writer
from tests.explorer.backends import MemoryBackend, redis_backend
from tests.explorer.index_mutants import MUTANTS, SCRIPTS, Mutant, Script
from tests.explorer.rollout import NEW, OLD, touched_below_the_floor
from tests.explorer.search import Explorer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.mark.parametrize("mutant", SCRIPTS, ids=lambda mutant: mutant.name)
async def test_a_broken_script_is_found_out(unix_url: str, prefix: str, mutant: Script) -> None:
    """What is replaced in the index's own script, over a real server."""
    broken = [(mutant.old, mutant.new)]
    async with redis_backend(unix_url, prefix, marks=1, broken=broken) as backend:
        explorer = Explorer(backend, bound=250)
        assert await explorer.finds(mutant.breaks, mutant.scenarios), explorer.result.report()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_a_broken_caller_is_found_out(
    narrow: MemoryBackend, monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    """What is replaced in what calls the index."""
    for name, function in mutant.writer.items():
        monkeypatch.setattr(Writer, name, function)
    explorer = Explorer(narrow, bound=200, wrap=lambda store: mutant.store(store, narrow))
    assert await explorer.finds(mutant.breaks, mutant.scenarios), explorer.result.report()


@pytest.mark.parametrize("ring", [(NEW, OLD), (OLD, NEW)])
async def test_a_floor_that_counts_though_another_key_has_the_entry_is_found_out(
    unix_url: str, prefix: str, ring: tuple[str, str]
) -> None:
    """During a key roll-out."""
    broken = [("not entry and elsewhere ~= 'live' and", "not entry and")]
    async with redis_backend(unix_url, prefix, marks=1, broken=broken) as backend:
        touched = await touched_below_the_floor(backend, ring)
    assert touched.is_new == (ring[0] == NEW)  # the other order has the entry in the index touched

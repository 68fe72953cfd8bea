"""The explorer finds out what breaks when a mechanism of near copies is switched off."""

from __future__ import annotations

import pytest

from tests.explorer.backends import MemoryBackend
from tests.explorer.near_mutants import MUTANTS, Mutant
from tests.explorer.search import Explorer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_broken_copies_are_found_out(
    memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    """Each mechanism is switched off in the library, or in what the server remembers."""
    for owner, name, new in mutant.replaced:
        monkeypatch.setattr(owner, name, new)
    explorer = Explorer(memory, world=mutant.world)
    for _ in range(100):
        await explorer.walk(mutant.scenario, 20)
        if any(name.startswith(mutant.breaks) for name in explorer.result.violations):
            return
    pytest.fail(f"nothing of {mutant.breaks!r} was found: {explorer.result.report()}")

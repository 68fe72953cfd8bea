"""The explorer finds out what breaks when a mechanism is switched off."""

from __future__ import annotations

import pytest

from tests.explorer.backends import MemoryBackend
from tests.explorer.families import CORE, FAMILIES, pairs
from tests.explorer.mutants import MUTANTS, Mutant
from tests.explorer.search import Explorer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_a_broken_library_is_found_out(memory: MemoryBackend, mutant: Mutant) -> None:
    explorer = Explorer(
        memory, wrap=lambda store: mutant.store(store, memory), worker=mutant.worker
    )
    faults = (mutant.fault,)
    family = pairs(faults, CORE) if mutant.family == "pairs" else FAMILIES[mutant.family](faults)
    for scenario in family:
        await explorer.explore(scenario)
        if any(found.startswith(mutant.breaks) for found in explorer.result.violations):
            return
    pytest.fail(f"nothing of {mutant.breaks} was found: {explorer.result.report()}")

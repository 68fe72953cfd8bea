"""The explorer finds out what breaks when a mechanism is switched off."""

from __future__ import annotations

import pytest

from redis_sessions.lifecycle import loading
from redis_sessions.stores.commands import EARLIER, END
from redis_sessions.stores.repeats import Repeat, Repeats
from tests.explorer.backends import MemoryBackend, RedisBackend
from tests.explorer.families import CORE, FAMILIES, pairs
from tests.explorer.mutants import MUTANTS, Mutant
from tests.explorer.search import Explorer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_a_broken_library_is_found_out(
    memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    """Each mechanism is switched off in the store, the manager or what loads sessions."""
    for name, function in mutant.loading.items():
        monkeypatch.setattr(loading, name, function)
    explorer = Explorer(
        memory, wrap=lambda store: mutant.store(store, memory), worker=mutant.worker
    )
    faults = (mutant.fault,)
    family = pairs(faults, CORE) if mutant.family == "pairs" else FAMILIES[mutant.family](faults)
    assert await explorer.finds(mutant.breaks, family), explorer.result.report()


@pytest.mark.parametrize("forgotten", [END, EARLIER], ids=["ends", "rotations"])
async def test_repeats_that_are_forgotten_are_found_out(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch, forgotten: bytes
) -> None:
    """A process that repeats its ends alone, or its rotations alone."""
    put = Repeats._put  # pyright: ignore[reportPrivateUsage]  # the mechanism to switch off

    def forgetful(self: Repeats, repeat: Repeat, *, in_place: bool = False) -> None:
        if repeat.write.expected != forgotten:
            put(self, repeat, in_place=in_place)

    monkeypatch.setattr(Repeats, "_put", forgetful)
    explorer = Explorer(backend)
    assert await explorer.finds("I2", pairs(("failover repeated",), ("rotate", "out")))

"""benchmarks/capacity.py: the model adds up, the simulations are what they say, as is the page."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import pytest
from redis.crc import key_slot

from benchmarks import capacity
from benchmarks.capacity import (
    FIGURES,
    GIB,
    SLOTS,
    Figures,
    Limits,
    Load,
    heat,
    plan,
    session_keys,
    shard_loss,
    shard_shares,
    slots_of,
)
from tests.support import ROOT

KEYS = session_keys(20_000, seed=7)
PLAIN = Figures(
    record=100, data=1, index=300, entry=0, read=10, read_of_many=1, change=30, touch=60,
    sign_in=100, worker=50, end_all=5,
)  # fmt: skip
LOAD = Load(1000, 100, data=600, changes=0.5, touches=0.25, sign_ins=0.1, application=950)


def test_plan_adds_up() -> None:
    """Memory, Redis' CPU and the workers, worked out by hand."""
    found = plan(LOAD, PLAIN, Limits(spare=1.5, worker=0.1))

    assert found.memory == 1000 * (100 + 600 + 300) * 1.5
    assert found.redis == pytest.approx(100 * (10 + 15 + 15 + 10) / 1e6)
    assert found.workers == 1  # 100 requests of 1 ms are a tenth of a core
    assert found.shards == 1


def test_near_copies_spare_redis_the_reads() -> None:
    """What they answer is neither read by Redis nor sent; what is written is."""
    found, without = plan(replace(LOAD, near=0.75), PLAIN), plan(LOAD, PLAIN)

    assert without.redis - found.redis == pytest.approx(100 * 7.5 / 1e6)
    assert found.network / without.network == pytest.approx((0.25 + 0.75) / 1.75)


@pytest.mark.parametrize(
    ("sessions", "rate", "shards"),
    [
        (1, 1, 1),
        (100_000_000, 1, 6),  # 100,000,000 kB, which are 93.1 GiB
        (1, 100_000, 10),  # 5 cores, each half used
        (100_000_000, 100_000, 10),
    ],
)
def test_the_scarcer_decides(sessions: int, rate: float, shards: int) -> None:
    """There are as many shards as the memory needs, or as the CPU does if that is more."""
    load = replace(LOAD, sessions=sessions, rate=rate)
    assert plan(load, PLAIN, Limits(spare=1.0)).shards == shards


def test_shards_have_equal_slots() -> None:
    """16384 slots in contiguous ranges whose sizes differ by one at most."""
    for shards in (1, 3, 7, 100):
        owners = slots_of(shards)
        assert owners == sorted(owners)
        counts = [owners.count(shard) for shard in range(shards)]
        assert sum(counts) == SLOTS
        assert max(counts) - min(counts) <= 1


def test_keys_are_spread_by_their_slot() -> None:
    """A key counts for the shard of its slot, by its weight."""
    (key,) = session_keys(1, seed=1)
    assert len(key) == len("session:") + 20
    shares = shard_shares([key, *KEYS[:9]], 4, [91.0, *[1.0] * 9])
    assert shares[key_slot(key.encode()) * 4 // SLOTS] >= 0.91
    assert sum(shares) == pytest.approx(1)


def test_every_shard_has_about_its_share() -> None:
    """Ids are random, so no shard has a tenth more than another expects."""
    assert max(shard_shares(KEYS, 12)) < 1.1 / 12


def test_without_replicas_a_machine_is_a_shard() -> None:
    """k of n machines lost are k/n of the sessions, each time, and they are gone."""
    found = shard_loss([0.25] * 4, 2, draws=100)
    assert found == (0.5, 0, 1, 0.5, 0.5)


def test_one_machine_of_a_replicated_shard_loses_nothing() -> None:
    """Half of the machines are primaries: so half of a shard is away for a while."""
    found = shard_loss([0.25] * 4, 1, replicas=1, draws=4_000)
    assert found[1:] == (0, 0, 0, 0)
    assert found.away == pytest.approx(0.125, abs=0.01)


def test_both_machines_of_a_shard() -> None:
    """How often two of eight machines are of the same shard: 4 pairs of 28."""
    found = shard_loss([0.25] * 4, 2, replicas=1, draws=4_000)
    assert found.any == pytest.approx(4 / comb(8, 2), abs=0.02)
    assert found.mean == pytest.approx(found.any * 0.25)
    assert found.worst == 0.25


def test_without_a_majority_nothing_fails_over() -> None:
    """Two of three primaries gone are too many: 3 pairs of the 15 that 6 machines make."""
    found = shard_loss([1 / 3] * 3, 2, replicas=1, draws=4_000)
    assert found.stalled == pytest.approx(3 / comb(6, 2), abs=0.02)
    assert shard_loss([1 / 12] * 12, 2, replicas=1).stalled == 0


def test_the_same_draws_each_time() -> None:
    """A seed makes it repeatable."""
    shares = shard_shares(KEYS, 5)
    assert shard_loss(shares, 3, replicas=1) == shard_loss(shares, 3, replicas=1)


def test_heat_grows_with_the_exponent() -> None:
    """Used alike, sessions load shards alike; the more one is used, the more its shard has."""
    even, steep = heat(KEYS, 12, 0.0), heat(KEYS, 12, 1.2)
    assert even.session == pytest.approx(1 / len(KEYS))
    assert even.shard < 1.1 / 12
    assert steep.session > 0.1
    assert steep.shard > steep.session
    assert steep.equal == 1 / 12


PAGE = (ROOT / "docs" / "scaling.md").read_text()


def test_the_page_has_what_the_program_prints() -> None:
    """docs/scaling.md's tables are those of `python -m benchmarks.capacity`."""
    keys = session_keys(100_000, seed=1)
    rows = [*capacity.plan_rows(), *capacity.loss_rows(keys), *capacity.heat_rows(keys)]
    assert [row for row in rows if row not in PAGE] == []


def test_the_page_has_the_figures() -> None:
    """Each figure stands in the table of docs/scaling.md, by its name."""
    for name, value in vars(FIGURES).items():
        assert f"| `{name}` | {value:g} |" in PAGE
    assert f"{Limits().memory / GIB:g} GiB" in PAGE

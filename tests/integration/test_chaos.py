"""Deployments that break while 64 browsers are at work: nobody sees what isn't theirs, and what
was confirmed stays so.

Short versions of `python -m tests.chaos`, which has the figures; no time is asserted here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.faults import LAG_MS, Case, run
from tests.chaos.site import Waits

CASES: Final = [
    Case("sentinel-kill", lag_ms=LAG_MS),
    Case("sentinel-kill", Waits(2), lag_ms=LAG_MS),
    Case("sentinel-partition", Waits(2, every=True)),
    Case("cluster-kill", Waits(1, every=True), lag_ms=LAG_MS),
    Case("cluster-failover", Waits(1)),
    Case("cluster-reshard", slots=50),
    Case("cluster-dead"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.scenario}, {case.variant}")
async def test_holds_what_it_promises(case: Case, server_binary: Path) -> None:
    """Answers are below 400 or 503, data are their owner's, no end or rotation is undone, and all
    is served afterwards; in a Cluster only the sessions of the server concerned are refused.
    """
    report = await run(replace(case, server=server_binary, seconds=0.4))
    assert not case.violations(report), report
    assert report.changes_told, "nobody stayed, so nothing could be lost"
    assert report.ended, "no session was ended, so none could be revived"
    assert report.rotated, "no token was replaced, so none could open again"

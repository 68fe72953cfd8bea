"""The benchmarks of near copies, of staleness, and of two checkouts run, in a tiny size."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import near, near_tables, staleness
from benchmarks.driver import Client
from benchmarks.near import Browser, expected
from benchmarks.peers import OURS
from tests.support import ROOT

NEEDED = pytest.mark.usefixtures("redis_binary")


def silent(_: str) -> None:
    pass


@NEEDED
def test_near() -> None:
    """A second page finds the copies of the first, and Redis remembers who has them."""
    found = near.measure(near.QUICK, silent)

    assert sum(row["errors"] for row in found["hits"]) == 0
    assert {row["hits"] for row in found["hits"] if row["page"] == "again"} != {0}
    assert found["tracked"][0]["bytes_each"] > 0


@NEEDED
def test_staleness() -> None:
    """Each write is seen by the other process, whether or not it is busy."""
    found = staleness.measure(staleness.QUICK, silent)

    rows = [row for row in found["staleness"] if row["since"] == "request"]
    assert {row["state"] for row in rows if row["peer"] == OURS} == {"idle", "loaded"}
    assert all(sum(row["histogram"]) == row["writes"] == 5 for row in rows)
    assert all(0 < row["p50_ms"] <= row["p99_ms"] <= row["worst_ms"] for row in rows)
    text = near_tables.staleness({"staleness": found})
    assert "| single server | **redis-sessions** | loaded | 5 |" in text


@NEEDED
def test_two_checkouts() -> None:
    """A checkout beside itself: a table with a ratio for each."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ab", str(ROOT), "--rounds", "1", "--blocks", "1",
         "--seconds", "0.001", "--lanes", "2", "--operations", "read"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert "| read, 2 | redis-sessions, CPU | " in done.stdout


def test_first_pages_ask_once_in_each_worker() -> None:
    """One worker asks once for all calls; with many workers hardly any call finds a copy."""
    assert expected(1, 12) == 11 / 12
    assert expected(2, 2) == 1 - 1.5 / 2
    assert expected(10**6, 2) == pytest.approx(0, abs=1e-5)


def test_a_browser_forgets_what_has_expired() -> None:
    """The hint of a change goes after its Max-Age; the session's cookie stays."""
    browser = Browser("session=a")

    browser.keep("session-fresh=1; path=/; Max-Age=10; httponly")
    assert browser.header() == "session=a; session-fresh=1"
    browser.keep("session-fresh=1; path=/; Max-Age=0")
    browser.keep("session=b; path=/")
    assert browser.header() == "session=b"


async def test_a_browser_of_the_driver_carries_the_hint() -> None:
    """The driver's browsers carry both cookies, as others do."""
    client = Client(None)  # type: ignore[arg-type]  # nothing is asked

    for cookie in (b"session=a; path=/", b"session-fresh=1; Max-Age=10"):
        headers = [(b"set-cookie", cookie)]
        await client.send({"type": "http.response.start", "status": 200, "headers": headers})

    assert (client.cookie, client.hint) == (b"session=a", b"session-fresh=1")

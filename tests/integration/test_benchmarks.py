"""The benchmarks run, in a tiny size; what they say of a worse tree; how they are written up."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    charts,
    check,
    codec,
    figures,
    http_load,
    overhead,
    redis_cost,
    report,
    scale,
    tables,
)
from benchmarks.budgets import BUDGETS, Figures, verdict
from benchmarks.markdown import NOT_RUN
from benchmarks.peers import OURS, OURS_CLUSTER, PEERS, missing
from benchmarks.ratios import Ratio, Rounds, joined, ratio
from tests.support import ROOT

NEEDED = pytest.mark.usefixtures("redis_binary")
RECORDED = {"read-64-ours-cpu": 0.7, "open": 0.4, "http-cookie": 1.5, "stored": 95.0}


def silent(_: str) -> None:
    pass


def errors(rows: list[dict[str, Any]]) -> int:
    return sum(row["errors"] for row in rows)


@pytest.fixture(scope="module")
def measured() -> Figures:
    """What a tiny run of one benchmark leaves."""
    gc.freeze()  # the benchmark collects garbage before each block; that of all tests takes seconds
    try:
        return {
            "codec": {"environment": figures.environment(), **codec.measure(codec.QUICK, silent)}
        }
    finally:
        gc.unfreeze()


def test_codec(measured: Figures) -> None:
    """Each way to keep a session is timed in each direction."""
    rows = measured["codec"]["codec"]

    assert {row["operation"] for row in rows} == set(codec.OPERATIONS)
    assert {codec.OURS, codec.COOKIE} <= {row["codec"] for row in rows}
    assert all(row["us"][0] > 0 for row in rows)


@NEEDED
def test_overhead() -> None:
    """Everybody's sessions last through reads, changes and sign-ins at the same time."""
    found = overhead.measure(overhead.QUICK, silent)

    assert {row["operation"] for row in found["overhead"]} == {"read", "change", "sign-in"}
    assert {"cookie", OURS, OURS_CLUSTER} <= {row["peer"] for row in found["overhead"]}
    firsts = [row["operation"] for row in found["overhead"] if row["peer"] == "ours-first"]
    assert firsts == ["read"]
    assert errors(found["overhead"]) == errors(found["latency"]) == 0


@NEEDED
@pytest.mark.usefixtures("wrk")
def test_http() -> None:
    """wrk finds each application behind uvicorn, and is answered."""
    rows = http_load.measure(replace(http_load.QUICK, peers=(OURS,)), silent)["http"]

    assert [row["peer"] for row in rows] == [OURS]
    assert rows[0]["rate"][0] > 0
    assert errors(rows) == 0


@NEEDED
def test_redis() -> None:
    """A read is one command, a change two, and what a script calls isn't counted."""
    found = redis_cost.measure(replace(redis_cost.QUICK, peers=(OURS,)), silent)

    alone = {row["operation"]: min(row["commands"]) for row in found["redis"] if row["lanes"] == 1}
    assert (alone["read"], alone["change"]) == (1, 2)
    assert errors(found["redis"]) == 0
    assert found["memory"][0]["bytes_each"][0] > 300


@NEEDED
def test_scale() -> None:
    """Worker processes are offered an open-loop load; sizes, numbers and Clusters are measured."""
    found = scale.measure(replace(scale.QUICK, peers=(OURS,)), silent)

    tables = ("arrivals", "size", "live", "nodes")
    assert {table: errors(found[table]) for table in tables} == dict.fromkeys(tables, 0)
    assert found["arrivals"][0]["answered"] > 0
    assert {row["nodes"]: len(row["server_cpu_us"]) for row in found["nodes"]} == {0: 1, 1: 1, 2: 2}
    assert all(row["batches"] > 0 for row in found["nodes"] if not row["near"])


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"open": 0.4, "stored": 95}, {"open": "ok", "stored": "ok"}),
        ({"open": 0.44, "stored": 96}, {"open": "ok", "stored": "WORSE"}),
        ({"open": 0.45}, {"open": "WORSE", "stored": "not measured"}),
        ({"seal": 9}, {"seal": "not recorded"}),
        ({"read-64-ours-cpu": 0.76}, {"read-64-ours-cpu": "ok"}),
        ({"read-64-ours-cpu": 0.79}, {"read-64-ours-cpu": "WORSE"}),
    ],
    ids=[
        "the same",
        "one within its tolerance",
        "beyond, and missing",
        "never recorded",
        "within",
        "beyond",
    ],
)
def test_worsened_ratios_are_found(now: dict[str, float], words: dict[str, str]) -> None:
    """A ratio that is worse than the recorded one by more than its tolerance is a regression."""
    findings = check.compare(RECORDED, {name: Ratio(value) for name, value in now.items()})

    found = {finding.budget.name: finding.word for finding in findings}
    assert {name: found[name] for name in words} == words


@pytest.mark.parametrize(
    ("recorded", "now", "word"),
    [
        (0.77, Ratio(0.81), "ok, still over"),
        (0.77, Ratio(0.83), "OVER BUDGET"),
        (0.9, Ratio(0.95), "ok, still over"),
        (0.77, Ratio(0.83, 0.2), "unsteady"),
        (0.5, Ratio(0.83, 0.2), "WORSE"),
    ],
    ids=["less than 5 %", "more", "over as recorded", "one half within", "no half within"],
)
def test_a_budget_that_was_met_is_kept(recorded: float, now: Ratio, word: str) -> None:
    """Over the budget is a regression if it wasn't when it was recorded, and by both halves."""
    findings = check.compare({"read-64-ours-cpu": recorded}, {"read-64-ours-cpu": now})

    (finding,) = (each for each in findings if each.budget.name == "read-64-ours-cpu")
    assert finding.budget.limit == 0.78
    assert finding.word == word


def test_check_exits_with_1_if_a_ratio_is_worse(
    measured: Figures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The recorded ratios pass, twice as good ones don't, and both runs have to be bad."""
    runs: list[bool] = []

    def measure(*, quick: bool = False) -> Any:
        runs.append(quick)
        return {"codec": {"codec": measured["codec"]["codec"]}}

    monkeypatch.setattr(check, "measure", measure)
    assert check.main(directory=tmp_path) == 1  # nothing is recorded
    assert check.main(record=True, directory=tmp_path) == 0
    assert check.main(directory=tmp_path) == 0
    path = tmp_path / "recorded.json"
    recorded = json.loads(path.read_text())
    recorded["values"]["seal"] /= 2
    path.write_text(json.dumps(recorded))
    runs.clear()
    capsys.readouterr()

    assert check.main(directory=tmp_path) == 1

    assert len(runs) == 2
    lines = capsys.readouterr().out.splitlines()
    assert any("WORSE" in line and "seal" in line for line in lines)


def test_a_ratio_is_that_of_the_best_rounds() -> None:
    """The best of each side, less the best without sessions; for rates that is the most."""
    ours, theirs = Rounds([9, 7, 8, 8], bare=[3, 2, 2, 3]), Rounds([12, 13, 12, 14], bare=[2] * 4)

    found = ratio(ours, theirs)
    assert found.value == 0.5
    assert found.spread == pytest.approx(0.2)
    assert ratio(Rounds([9, 10], more=True), Rounds([4, 5], more=True)).value == 2
    assert ratio(Rounds([1]), Rounds([0])).value == float("inf")


@pytest.mark.parametrize(
    ("rounds", "shown"),
    [([4.0, 5.0, 5.0, 4.1], "0.40"), ([4.0, 5.0, 5.0, 4.4], "0.40 ±10%"), ([4.0], "0.40 ±?")],
    ids=["steady", "not steady", "a single round"],
)
def test_a_ratio_says_whether_it_stands_still(rounds: list[float], shown: str) -> None:
    """Its halves are compared: with more than 5 % between them it says so."""
    assert str(ratio(Rounds(rounds), Rounds([10.0] * len(rounds)))) == shown


def test_more_rounds_join_the_first() -> None:
    """Only what has a value for each round grows."""
    rows = joined([{"peer": "ours", "cpu": [2, 3]}], [{"peer": "ours", "cpu": [1]}])

    assert rows == [{"peer": "ours", "cpu": [2, 3, 1]}]


def test_each_budget_says_what_wasnt_run() -> None:
    """Without figures nothing is called met."""
    assert {verdict(budget, {}) for budget in BUDGETS} == {(None, "not run")}


def costs(**cpu: list[float]) -> Figures:
    """What `overhead` says of 64 reads in flight."""
    rows = [
        {"operation": "read", "lanes": 64, "peer": peer.replace("_", "-"), "cpu": values}
        for peer, values in cpu.items()
    ]
    return {"overhead": {"overhead": rows}}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (costs(ours=[10, 10], ours_cluster=[15, 15]), (Ratio(1.5), "met")),
        (costs(ours=[10, 10], ours_cluster=[21, 21]), (Ratio(2.1), "not met")),
        (costs(ours=[10, 10], ours_cluster=[15, 20]), (Ratio(1.5, 5 / 15), "met, unsteady")),
        (costs(ours=[10, 10]), (None, "not run")),
    ],
    ids=["within", "beyond", "unsteady", "no Cluster"],
)
def test_a_cluster_costs_no_more_than_twice_the_single_server(
    found: Figures, expected: tuple[Ratio | None, str]
) -> None:
    """The budget compares the Cluster with this library's own single server."""
    budget = next(budget for budget in BUDGETS if budget.name == "read-64-cluster")

    assert verdict(budget, found) == expected


def test_figures_without_clusters_are_reported(tmp_path: Path) -> None:
    """Results from before there were any: the section says so, and nothing is drawn of them."""
    found: Figures = {"scale": {"environment": figures.environment(), "nodes": []}}

    filled = report.filled("<!-- nodes -->\n<!-- /nodes -->\n", found)

    assert filled == f"<!-- nodes -->\n{NOT_RUN}\n<!-- /nodes -->\n"
    assert charts.draw(found, tmp_path) == []


def test_the_report_shows_how_nodes_divide_the_work() -> None:
    """The client's CPU beside the single server's, and what all nodes and the busiest do."""
    rows = [
        {"operation": "read", "lanes": 64, "nodes": count, "near": False, "cpu": cpu,
         "server_cpu_us": server, "batches": 0.0156 * len(server)}
        for count, cpu, server in ((0, [20.0], [1.5]), (2, [30.0], [1.25, 1.0]))
    ]  # fmt: skip
    found: Figures = {"scale": {"environment": figures.environment(), "nodes": rows}}

    filled = report.filled("<!-- nodes -->\n<!-- /nodes -->\n", found)

    assert "| read, 64 | 1.00 ±? (20.0) | 1.50 ±? (30.0) |" in filled
    assert "| read, 64 | 1.50 / 1.50 | 2.25 / 1.25 |" in filled


def test_the_report_replaces_what_is_between_the_markers(measured: Figures) -> None:
    """Text around the markers stays; a second report of the same figures changes nothing."""
    text = "before\n<!-- codec -->\nold\n<!-- /codec -->\n<!-- http -->\n<!-- /http -->\nafter\n"

    filled = report.filled(text, measured)

    assert filled.startswith("before\n<!-- codec -->\n|")
    assert filled.endswith("<!-- http -->\n*Not run yet.*\n<!-- /http -->\nafter\n")
    assert "old" not in filled
    assert report.filled(filled, measured) == filled
    with pytest.raises(ValueError, match="no end"):
        report.filled("<!-- codec -->\n", measured)


def test_the_readme_has_every_section() -> None:
    """Each section that `report` writes has its place in the README."""
    text = report.README.read_text()

    assert [name for name in tables.SECTIONS if f"<!-- {name} -->" not in text] == []


def test_a_peer_that_isnt_installed_is_named() -> None:
    """The command says what it leaves out, for whoever reads the figures."""
    gone = replace(PEERS["litestar"], modules=("no_such_module",))

    assert missing(gone) == ["no_such_module"]
    assert missing(PEERS[OURS]) == []


def test_an_unknown_benchmark_is_refused() -> None:
    """A typing error isn't a benchmark that ran."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "overhaed"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "overhaed" in done.stderr

"""deploy/observability: the dashboard asks for metrics that exist, and compose reads the file."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from redis_sessions import Keyring, MemoryStore, SessionManager, generate_key
from redis_sessions.telemetry import instrument
from tests.support import ROOT

HERE = ROOT / "deploy" / "observability"
_ROW = re.compile(r"^\| `(redis_sessions\.[a-z.]+)` \| `(\w+)` \| (\w[\w-]*)", re.MULTILINE)
_ENDINGS = {"histogram": ("_bucket", "_sum", "_count")}


def test_the_dashboard_asks_for_documented_metrics() -> None:
    """Each name in its queries is one of docs/observability.md, and all of those are asked for."""
    rows = _ROW.findall((ROOT / "docs" / "observability.md").read_text())
    names = {prometheus: _ENDINGS.get(kind, ("",)) for _, prometheus, kind in rows}
    known = {name + ending: name for name, endings in names.items() for ending in endings}
    panels = json.loads((HERE / "dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {
        name for query in queries for name in re.findall(r"\b(redis_sessions_\w+)[\[{]", query)
    }
    asked |= set(re.findall(r"sum\((redis_sessions_\w+)\)", " ".join(queries)))
    assert asked <= known.keys()
    assert {known[name] for name in asked} == names.keys()


def test_all_instruments_are_documented() -> None:
    """docs/observability.md has each instrument that the code makes, and no other."""
    instrument(SessionManager(MemoryStore(), Keyring(generate_key())))
    code = (ROOT / "redis_sessions" / "telemetry.py").read_text()
    rows = _ROW.findall((ROOT / "docs" / "observability.md").read_text())
    made = set(re.findall(r'"(redis_sessions\.[a-z.]+)",\s', code))
    assert {name for name, _, _ in rows} == made


def test_compose_reads_the_example(docker_compose: Path) -> None:
    """The file is valid, what it mounts exists, and only this machine can reach the ports."""
    run = subprocess.run(
        [str(docker_compose), "-f", str(HERE / "compose.yml"), "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    services = json.loads(run.stdout)["services"]
    assert services.keys() == {"redis", "app", "prometheus", "grafana"}
    for service in services.values():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
        assert all(Path(mount["source"]).is_file() for mount in service.get("volumes", []))

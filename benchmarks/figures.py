"""Where figures are kept: JSON under `results/`, with the machine and the versions they are of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.servers import available, version_of

__all__ = ["RESULTS", "environment", "load", "save"]

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "redis-sessions", "starlette", "starsessions", "fastapi-redis-sdk", "fastapi-alcazaba",
    "litestar", "fastapi", "redis", "hiredis", "msgspec", "PyNaCl", "itsdangerous", "cryptography",
    "uvloop", "uvicorn", "httptools",
)  # fmt: skip


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def environment() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {processor()}, {memory >> 30} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "servers": [version_of(kind) for kind in available()],
        "packages": versions(),
    }


def save(name: str, figures: Mapping[str, Any], directory: Path = RESULTS) -> Path:
    """Write one benchmark's figures; return where they are."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(_text({"environment": environment(), **figures}))
    return path


def load(name: str, directory: Path = RESULTS) -> dict[str, Any] | None:
    """One benchmark's figures, or None if it hasn't been run."""
    path = directory / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _items(value: Any) -> list[Any]:
    return list(value)


def _text(figures: Mapping[str, Any]) -> str:
    """A row to a line: what changed between two runs can be read in a diff."""
    parts: list[str] = []
    for key, value in figures.items():
        if isinstance(value, list):
            rows = ",\n".join(f"    {json.dumps(row)}" for row in _items(value))
            parts.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"

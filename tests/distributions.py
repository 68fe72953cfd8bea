"""`make dist`: builds what is released into dist/, and installs each of it as a user would.

    python -m tests.distributions

The wheel is built from the sdist. Each goes into an environment of its own, where this folder
isn't: the package is imported there, the command runs, and pyright finds all public names typed.
What it depends on has the versions of constraints.txt, of which dist/ also gets an SBOM.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.support import ROOT, VENV

DIST: Final = ROOT / "dist"
CONSTRAINTS: Final = ROOT / "constraints.txt"
EXTRAS: Final = "fastapi,cli"
PYRIGHT: Final = {"PYRIGHT_PYTHON_GLOBAL_NODE": "off", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}

TRY: Final = """
import redis_sessions, redis_sessions.fastapi, redis_sessions.testing
from importlib.metadata import entry_points
assert "pytest_redis_sessions" in {point.name for point in entry_points(group="pytest11")}
from importlib.resources import files
assert "site-packages" in redis_sessions.__file__
for name in ("py.typed", "SKILL.md", "stores/commit.lua", "demo/templates"):
    assert (files("redis_sessions") / name).exists(), name
import asyncio
from redis_sessions import SessionManager, generate_key
from redis_sessions.testing import read_session, store_session
async def main():
    manager = SessionManager("memory://", generate_key())
    token = await store_session(manager, {"user_id": 1})
    assert await read_session(manager, token) == {"user_id": 1}
asyncio.run(main())
print(redis_sessions.__version__)
"""

PUBLIC: Final = ("redis_sessions", "redis_sessions.fastapi")
EXPORTED: Final = """
import importlib, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for each in module.__all__:
        found = getattr(module, each)
        print(f"{name}.{each}")
        if hasattr(found, "__qualname__"):
            print(f"{found.__module__}.{found.__qualname__}")
"""


def run(command: Sequence[str | Path], cwd: Path, **environment: str) -> str:
    """What a program prints. If it fails, this one ends."""
    env = {**os.environ, **environment}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build() -> list[Path]:
    """The sdist and the wheel, with hatchling from this environment."""
    shutil.rmtree(DIST, ignore_errors=True)
    run([sys.executable, "-m", "build", "--no-isolation"], ROOT)
    return sorted(DIST.iterdir(), key=lambda path: path.suffix)  # .gz before .whl


def install(file: Path, where: Path) -> Path:
    """A new environment with this file, and all that it depends on; its Python."""
    venv.create(where, symlinks=True)
    python = where / "bin" / "python"
    name = f"redis-sessions[{EXTRAS}] @ {file.as_uri()}"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python]
    versions = ("--constraint", CONSTRAINTS, "--build-constraint", CONSTRAINTS)
    run([*pip, "install", "--quiet", "--no-compile", *versions, name], where)
    run([*pip, "check"], where)
    return python


def check(python: Path, version: str) -> None:
    """The installed package works, and says which version it is."""
    where = python.parent
    said = run([python, "-W", "error", "-c", TRY], where)
    assert said == f"{version}\n", said
    assert run([where / "redis-sessions", "--version"], where) == f"{version}\n"
    assert "check" in run([where / "redis-sessions", "--help"], where)


def check_types(python: Path) -> int:
    """How many names pyright finds that belong to the public API: all of them have to be typed.

    `pyright --verifytypes` takes every module for public that has no underscore. Here a name is
    public if `PUBLIC` exports it, or if it is a member of a class that is exported there.
    """
    command = [str(VENV / "bin" / "pyright"), "--ignoreexternal", "--outputjson"]
    done = subprocess.run(
        [*command, "--verifytypes", "redis_sessions"],
        # By PATH alone pyright learns here which Python has the package.
        env={**os.environ, **PYRIGHT, "PATH": f"{python.parent}:{os.environ['PATH']}"},
        cwd=python.parent,
        capture_output=True,
        text=True,
        check=False,  # it fails as well for what isn't public
    )
    report: dict[str, Any] = json.loads(done.stdout)["typeCompleteness"]
    assert report["pyTypedPath"]
    said = run([python, "-c", EXPORTED, *PUBLIC], python.parent)
    public = set(said.split())
    symbols = [
        symbol
        for symbol in report["symbols"]
        if symbol["name"] in public or symbol["name"].rpartition(".")[0] in public
    ]
    untyped = [s["name"] for s in symbols if s["isTypeAmbiguous"] or not s["isTypeKnown"]]
    if untyped:
        sys.exit(f"without a type that every checker knows: {', '.join(untyped)}")
    return len(symbols)


def write_sbom(python: Path) -> None:
    """CycloneDX, of the wheel and what it was installed with."""
    run(
        [
            *(VENV / "bin" / "cyclonedx-py", "environment", python),
            *("--pyproject", ROOT / "pyproject.toml", "--mc-type", "library"),
            *("--output-reproducible", "--output-file", DIST / "redis-sessions.cdx.json"),
        ],
        ROOT,
    )


def main() -> None:
    """All of it; a line for each step."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = project["version"]
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s  {what}", flush=True)

    files = build()
    say(f"built {', '.join(file.name for file in files)}")
    with TemporaryDirectory() as directory, ThreadPoolExecutor() as pool:
        places = [Path(directory) / file.suffix[1:] for file in files]
        pythons = list(pool.map(install, files, places))
        say("installed each in a new environment")
        for python in pythons:
            check(python, version)
        say("tried each")
        written = pool.submit(write_sbom, pythons[-1])
        count = check_types(pythons[-1])
        say(f"{count} public names are typed")
        written.result()
        say("wrote dist/redis-sessions.cdx.json")


if __name__ == "__main__":
    main()

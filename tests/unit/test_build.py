"""What `make` installs, which doesn't depend on the day, and what its scripts do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES: Final = ("constraints.txt", "constraints-lowest.txt")

_PIN: Final = re.compile(r"[a-z0-9-]+==[\w.]+( ; [\w.<>=!' ()]+)?")
_BOUNDED: Final = re.compile(r""" *["'][\w-]+(\[.*\])?[^;"']*(<|~=|==)""")


def _lines(file: str) -> list[str]:
    return [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]


def _named() -> Iterator[Requirement]:
    """All that pyproject.toml names, and what installs it."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    for each in (PROJECT["build-system"]["requires"], project["dependencies"], *extras):
        yield from map(Requirement, each)
    yield from map(Requirement, ("pip", "uv"))


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_constraints_have_one_version_of_each_dependency(python: str) -> None:
    """On each Python there is one version of all that pyproject.toml names, within its bounds."""
    system = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }

    def holds(each: Requirement) -> bool:
        return each.marker is None or each.marker.evaluate(system)

    pinned = [each for each in map(Requirement, _lines("constraints.txt")) if holds(each)]
    found = {each.name: str(each.specifier).removeprefix("==") for each in pinned}
    assert len(found) == len(pinned)
    for each in filter(holds, _named()):
        if each.name != "redis-sessions":
            assert each.specifier.contains(found[canonicalize_name(each.name)]), each


@pytest.mark.parametrize("file", FILES)
def test_constraints_are_versions_only(file: str) -> None:
    """They name no index, no path and no extra: only exact versions, and when they hold."""
    lines = _lines(file)
    assert len(lines) > 100
    assert [line for line in lines if not _PIN.fullmatch(line)] == []
    assert "/" not in (ROOT / file).read_text()


def test_make_installs_by_constraints() -> None:
    """All that the Makefile installs is constrained, but where the newest is what is tried."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    installing = [line for line in makefile.splitlines() if "pip install" in line]
    free = [line for line in installing if "--constraint constraints" not in line]
    assert len(free) < len(installing)
    assert [line for line in free if "$(NEWEST)/bin" not in line] == []


def test_an_upper_bound_has_its_reason() -> None:
    """A comment stands beside each requirement that excludes later versions."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    bounds = [line for line in lines if _BOUNDED.match(line)]
    assert [line for line in bounds if "#" not in line] == []


def test_versions_that_differ_are_told(tmp_path: Path) -> None:
    """`make test-newest` begins with a table of them, which `scripts/versions.py` prints."""
    file = tmp_path / "constraints.txt"
    file.write_text(f"# made up\npytest==0.1\nredis=={version('redis')}\n")
    program = (sys.executable, ROOT / "scripts" / "versions.py", file)
    said = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in said.splitlines()]
    assert ["pytest", "0.1", version("pytest")] in rows
    assert ["anyio", "-", version("anyio")] in rows
    assert [row for row in rows if row[:1] in (["redis"], ["redis-sessions"])] == []


def test_a_folder_that_vanishes_is_no_file_afterwards(tmp_path: Path) -> None:
    """`scripts/servers` makes no file of its folder, if `make setup` clears that meanwhile."""
    programs, servers = tmp_path / "programs", tmp_path / "servers"
    programs.mkdir()
    for name in ("sh", "mkdir", "mktemp", "rm", "cp", "ln", "touch", "grep"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    made_up = {
        **dict.fromkeys(("redis-check-rdb", "valkey-check-rdb", "chromium", "docker-compose"), ""),
        **dict.fromkeys(("curl", "wrk", "apt-cache"), ""),
        "php": "echo redis; echo igbinary; echo msgpack",
        "id": "echo 0",
        # Only nginx is missing. When it is fetched, somebody else clears the folder.
        "apt-get": f'[ "$1" != download ] || {{ touch nginx_1.deb; rm -r "{servers}"; }}',
        "dpkg-deb": "mkdir -p usr/sbin && touch usr/sbin/nginx",
    }
    for name, does in made_up.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)

    command = (ROOT / "scripts" / "servers", servers)
    done = subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, check=False)
    assert not servers.is_file()
    if not Path("/usr/sbin/nginx").exists():  # else nothing is fetched
        assert done.returncode

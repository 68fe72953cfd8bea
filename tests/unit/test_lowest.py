"""tests/lowest.txt, against which `make test-lowest` runs, and the bounds in pyproject.toml."""

from __future__ import annotations

import re
import tomllib

from tests.support import ROOT

NOT_FOR_USERS = {"bench", "dev", "dist", "docs", "test"}


def test_the_lowest_versions_are_tested() -> None:
    """Each lower bound of a dependency, or of an extra for users, is the version that is tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    wanted = [*project["dependencies"]]
    for name, requirements in extras.items():
        wanted += [] if name in NOT_FOR_USERS else requirements
    bounds = dict[str, str]()
    for requirement in wanted:
        if requirement.startswith("redis-sessions"):
            continue
        parts = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        assert parts, requirement
        bounds[parts[1]] = parts[2]
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    tested = dict(line.split("==") for line in pins)

    for name, bound in bounds.items():
        assert _numbers(tested[name]) == _numbers(bound), name
    # `make constraints` adds what goes together with them: this is installed.
    assert {*pins} <= {*(ROOT / "constraints-lowest.txt").read_text().splitlines()}


def _numbers(version: str) -> list[int]:
    numbers = [int(part) for part in version.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return numbers

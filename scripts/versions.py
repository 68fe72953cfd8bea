#!/usr/bin/env python
"""Which packages in this Python's environment have another version than constraints.txt says."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def constrained(file: Path) -> dict[str, str]:
    """The version of each package on this Python and system."""
    lines = [line for line in file.read_text().splitlines() if line[0] != "#"]
    wanted = [Requirement(line) for line in lines]
    return {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in wanted
        if each.marker is None or each.marker.evaluate()
    }


def main(file: Path = CONSTRAINTS) -> None:
    """A table, or a line that there is no difference."""
    wanted = constrained(file)
    here = {canonicalize_name(each.name): each.version for each in distributions()}
    here.pop("redis-sessions", None)
    rows = [
        (name, wanted.get(name, "-"), version)
        for name, version in sorted(here.items())
        if wanted.get(name) != version
    ]
    if not rows:
        print(f"All {len(here)} packages have the versions of {file.name}.")
        return
    print(f"Of {len(here)} packages these have other versions than in {file.name}:\n")
    for name, old, new in [("package", file.name, "here"), *rows]:
        print(f"    {name:<40} {old:<18} {new}")
    print()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

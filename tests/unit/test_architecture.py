"""Who may import whom: the contracts in pyproject.toml, and the tests among themselves."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache

import pytest

from tests.support import ROOT, VENV


def test_imports_keep_the_contracts() -> None:
    """Imports point one way, and each library stays behind its module."""
    run = subprocess.run(
        [VENV / "bin" / "lint-imports", "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("room", ["session", "lifecycle", "http", "leader", "php"])
def test_the_page_names_each_module(room: str) -> None:
    """docs/architecture.md says in its table of rooms what each module of these is for."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{room}/` |")]
    modules = {path.stem for path in (ROOT / "redis_sessions" / room).glob("*.py")} - {"__init__"}

    assert sorted(name for name in modules if f"`{name}`" not in row) == []


def test_test_modules_are_no_libraries() -> None:
    """What several test modules need is in a module that isn't called `test_…` or `conftest`."""
    wrong = [
        f"{importer} imports {module}"
        for importer, module in imports()
        if module.rpartition(".")[2].startswith(("test_", "conftest"))
    ]

    assert wrong == []


def test_unit_tests_need_no_integration_tests() -> None:
    """tests/unit and tests/support import from no other directory of tests."""
    wrong = [
        f"{importer} imports {module}"
        for importer, module in imports()
        if importer.startswith(("tests.unit.", "tests.support."))
        and not module.startswith(("tests.unit.", "tests.support"))
    ]

    assert wrong == []


def test_unit_tests_need_no_servers() -> None:
    """Nothing of tests/support that starts or asks a server is imported by tests/unit."""
    servers = [
        f"tests.support.{name}" for name in ("servers", "deployments", "proxy", "redis_wire")
    ]
    wrong = [
        f"{importer} imports {module}"
        for importer, module in imports()
        if importer.startswith("tests.unit.") and module in servers
    ]

    assert wrong == []


@cache
def imports() -> tuple[tuple[str, str], ...]:
    """Each import of one module of tests by another: both names."""
    return tuple(_imports())


def _imports() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        importer = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
                assert node.module is not None
                yield importer, node.module
                for name in node.names:  # a module, perhaps
                    if name.name.startswith("test_"):
                        yield importer, f"{node.module}.{name.name}"
            elif isinstance(node, ast.Import):
                yield from (
                    (importer, name.name) for name in node.names if name.name.startswith("tests")
                )

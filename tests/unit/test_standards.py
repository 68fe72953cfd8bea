"""The table of requirements in docs/security.md, compared with the tests that carry their numbers.

A test that shows a requirement is marked `@pytest.mark.standard(8, "ASVS 7.2.4")`: its number in
the table, and its names in standards.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tests.support import ROOT

TESTS: Final = ROOT / "tests"
NUMBERS: Final = range(1, 43)
HEADING: Final = "## Requirements and tests"

_ROW: Final = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
_TEST: Final = re.compile(r"`([\w/]+\.py::\w+)`")


class Mark(NamedTuple):
    number: Any
    names: tuple[Any, ...]
    test: str


class Row(NamedTuple):
    names: tuple[str, ...]
    shown_by: str

    @property
    def tests(self) -> list[str]:
        return _TEST.findall(self.shown_by)


def _functions(
    *, near: str = "def "
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Those of the files that hold `near`: to parse all takes a second."""
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if near in text else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{path.relative_to(TESTS)}::{node.name}", node


def _marks() -> Iterator[Mark]:
    for test, node in _functions(near="mark.standard("):
        for decorator in node.decorator_list:
            if not ast.unparse(decorator).startswith("pytest.mark.standard"):
                continue
            assert isinstance(decorator, ast.Call), f"{test}: a standard has a number"
            number, *names = map(ast.literal_eval, decorator.args)
            yield Mark(number, tuple(names), test)


def _rows() -> dict[int, Row]:
    page = (ROOT / "docs" / "security.md").read_text()
    section = page.split(f"\n{HEADING}\n")[1].split("\n## ")[0]
    return {int(n): Row(_names(names), shown) for n, _, names, shown in _ROW.findall(section)}


def _names(column: str) -> tuple[str, ...]:
    """`ASVS 7.2.3, 11.5.1` is two names of ASVS."""
    names = list[str]()
    for part in column.split(", "):
        standard = names[-1].split(" ")[0] if names else ""
        names.append(part if " " in part else f"{standard} {part}")
    return () if column == "\N{EN DASH}" else tuple(names)


MARKS: Final = list(_marks())
ROWS: Final = _rows()


def test_every_requirement_has_its_row() -> None:
    """All of them, in their order."""
    assert list(ROWS) == list(NUMBERS)


def test_every_row_is_tested_or_says_why_not() -> None:
    """A row names tests, or is out of scope in a sentence; never both."""
    for number, row in ROWS.items():
        if row.tests:
            assert ", ".join(f"`{test}`" for test in row.tests) == row.shown_by, number
        else:
            assert re.match(r"Out of scope: \w.{20,}", row.shown_by), number


def test_every_named_test_exists() -> None:
    """What the table names is a test that is run."""
    there = {test for test, _ in _functions()}
    named = {test for row in ROWS.values() for test in row.tests}
    assert named <= there
    assert [t for t in named if not re.search(r"(^|/)test_\w+\.py::test_", t)] == []


def test_the_table_is_what_the_markers_say() -> None:
    """Each row names the tests that carry its number, in their order, and no other."""
    marked = defaultdict[Any, list[str]](list)
    for mark in MARKS:
        marked[mark.number].append(mark.test)
    assert {n: sorted(tests) for n, tests in marked.items()} == {
        n: row.tests for n, row in ROWS.items() if row.tests
    }


def test_markers_and_table_name_the_same_standards() -> None:
    """Each marker carries the names that its row has."""
    assert [m for m in MARKS if ROWS[m.number].names != m.names] == []

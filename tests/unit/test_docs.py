"""The code in README.md and docs/ runs, and the links in each page lead somewhere."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from redis_sessions import SessionMiddleware, generate_key
from redis_sessions.session.outcome import Outcome
from tests.support import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "redis_sessions" / "SKILL.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINKING = [
    *PAGES,
    *sorted(
        {*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md"), *ROOT.glob("examples/*/*.md")} - {*PAGES}
    ),
]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: \S((?!-->).)* -->\n+\Z", re.DOTALL)
_STORE_URL = re.compile(r"\b(rediss?|unix|embedded)://[^\"']*")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_EVENTS = ROOT / "docs" / "events.md"
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


class Block(NamedTuple):
    page: Path
    line: int
    code: str
    is_run: bool

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if match[1] == "python":
                is_run = _NOT_RUN.search(text, 0, match.start()) is None
                yield Block(page, text.count("\n", 0, match.start()) + 2, match[2], is_run)


BLOCKS = list(_blocks())


def _parsed(block: Block) -> ast.Module:
    # Fragments may `await` at their top level.
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(block.code, block.name, "exec", flags)
    assert isinstance(tree, ast.Module)
    return tree


def _is_complete(block: Block) -> bool:
    """Whether it imports what it needs, and defines `app` or runs something."""
    if not re.search(r"^from redis_sessions\b", block.code, re.MULTILINE):
        return False
    for statement in _parsed(block).body:
        if isinstance(statement, ast.Assign) and "app" in map(ast.unparse, statement.targets):
            return True
        if ast.unparse(statement).startswith("asyncio.run("):
            return True
    return False


def _named(block: Block) -> str:
    return block.name


@pytest.mark.parametrize("block", BLOCKS, ids=_named)
def test_code_compiles(block: Block) -> None:
    """Every Python block is Python."""
    _parsed(block)


@pytest.mark.parametrize("block", [b for b in BLOCKS if _is_complete(b)], ids=_named)
def test_complete_code_runs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete block runs, on a store in memory; its app answers, and its tests pass."""
    monkeypatch.setenv("SESSION_SECRET_KEY", generate_key())
    module = ModuleType("documented")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code = _STORE_URL.sub("memory://", block.code)
    # Above, on the same lines as on the page, so that tracebacks point there.
    exec(compile("\n" * (block.line - 1) + code, str(block.page), "exec"), vars(module))  # noqa: S102
    defined = dict(vars(module))
    if "app" in defined:
        _ask(defined["app"])
    for name, function in defined.items():
        if name.startswith("test_"):
            cast("Callable[[], None]", function)()


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.is_run and not _is_complete(b)], ids=_named
)
def test_fragments_run(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that is no application runs, too; or `<!-- not run: … -->` above says why not."""
    monkeypatch.setenv("SESSION_SECRET_KEY", generate_key())
    module = ModuleType("documented")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
    exec(code, vars(module))  # noqa: S102


def _ask(app: Any) -> None:
    """Each page without parameters answers: with what it is for, or that it wants a sign-in."""
    with TestClient(app, base_url="https://testserver") as client:
        for route in cast("list[object]", getattr(app, "routes", [])):
            if not isinstance(route, Route) or "{" in route.path:
                continue
            if "GET" in (route.methods or ()):
                assert client.get(route.path).status_code in (200, 401), route.path


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """A relative link names a file, and its anchor a heading, that are there."""
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in _anchors(target), f"{link}: no such heading"


def _anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of headings."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_listed() -> None:
    """docs/README.md links each page beside and below it."""
    index = ROOT / "docs" / "README.md"
    linked = set(_LINK.findall(index.read_text()))

    pages = {str(page.relative_to(index.parent)) for page in index.parent.rglob("*.md")}
    assert pages - {index.name} <= linked


def test_every_argument_is_documented() -> None:
    """docs/options.md's table has each argument of the middleware, and no other."""
    page = (ROOT / "docs" / "options.md").read_text()
    table = page.split("## The middleware")[1].split("\n\n")[2]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)

    arguments = inspect.signature(SessionMiddleware).parameters
    assert sorted(documented) == sorted(set(arguments) - {"app"})


def test_events_are_the_codes() -> None:
    """Each name and reason of docs/events.md is one that the code has."""
    code = "".join(path.read_text() for path in (ROOT / "redis_sessions").rglob("*.py"))
    known = {outcome.name.lower() for outcome in Outcome}
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|[^|]*\|$", _EVENTS.read_text(), re.MULTILINE)
    named = re.findall(r"`([^`]+)`", " ".join("".join(row) for row in rows))
    rejected = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", _EVENTS.read_text(), re.MULTILINE)
    named += re.findall(r"`([^`]+)`", " ".join(rejected))

    assert len(named) > 20
    assert [name for name in named if f'"{name}"' not in code and name not in known] == []


def test_the_architecture_names_what_there_is() -> None:
    """Each file, `module.name` and `Class.name` of docs/architecture.md is in the code."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    paths = [*(ROOT / "redis_sessions").rglob("*.py")]
    members: dict[str, set[str]] = {}
    for path in paths:
        tree = ast.parse(path.read_text())
        members.setdefault(path.stem, set()).update(_defined(tree.body))
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                inside = (n for n in ast.walk(node) if isinstance(n, ast.Attribute))
                fields = {n.attr for n in inside if ast.unparse(n.value) == "self"}
                members.setdefault(node.name, set()).update(_defined(node.body), fields)

    files = re.findall(r"`((?:\w+/)+\w+\.\w+)`", page)
    names = [match for match in re.findall(r"`(\w+)\.(\w+)`", page) if match[0] in members]
    assert [file for file in files if not (ROOT / "redis_sessions" / file).exists()] == []
    assert len(names) > 40
    assert [f"{of}.{name}" for of, name in names if name not in {*members[of], "py", "lua"}] == []


def _defined(body: list[ast.stmt]) -> set[str]:
    """The names that these statements define."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            names.update(map(ast.unparse, targets))
    return names

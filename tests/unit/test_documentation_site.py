"""The documentation site has all pages, and the tutorial's code is that of examples/tutorial."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

from redis_sessions import generate_key
from tests.support import ROOT
from tests.support.documentation import builder

_TUTORIAL = ROOT / "docs" / "tutorial"
_EXAMPLE = ROOT / "examples" / "tutorial"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml names each page of docs/ and each page from elsewhere once, and no other."""
    named = re.findall(
        r"^ +- (?:[^#\n]*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE
    )
    docs = ROOT / "docs"
    pages = [page.relative_to(docs).as_posix() for page in docs.rglob("*.md")]
    assert sorted(named) == sorted([*pages, *builder().OUTSIDE.values()])


def test_what_the_site_needs_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links out of docs/ lead to the site's copies, images stay, and marked blocks become tabs."""
    docs = builder()
    page = tmp_path / "docs" / "how-to" / "page.md"
    page.parent.mkdir(parents=True)
    page.write_text(
        "[a](../concepts.md#words) [b](../../README.md#start) [c](../../redis_sessions/errors.py)\n"
        "[d](#here) [e](https://example.com/x.md)\n\n"
        "![h](../images/h.webp) ![i](../../tests/i.png)\n\n"
        "<!-- tab: FastAPI -->\n\n```python\n[f](../../README.md)\n\nx = 1\n```\n"
    )
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "STAGED", tmp_path / "staged")
    monkeypatch.setattr(docs, "OUTSIDE", {"README.md": "project/readme.md"})
    (tmp_path / "README.md").write_text("[g](docs/how-to/page.md)\n")
    (tmp_path / "docs" / "concepts.md").write_text("# Words\n")

    docs.stage()

    assert (tmp_path / "staged" / "how-to" / "page.md").read_text() == (
        "[a](../concepts.md#words) [b](../project/readme.md#start) c (`redis_sessions/errors.py`)\n"
        "[d](#here) [e](https://example.com/x.md)\n\n"
        "![h](../images/h.webp) i\n\n"
        '=== "FastAPI"\n\n    ```python\n    [f](../../README.md)\n\n    x = 1\n    ```\n\n'
    )
    readme = (tmp_path / "staged" / "project" / "readme.md").read_text()
    assert readme == "[g](../how-to/page.md)\n"


def test_a_page_is_amended() -> None:
    """A menu in a menu is no landmark, and an empty corner of a table no header."""
    menu = '<nav class="md-nav" data-md-level="1" aria-labelledby="a" aria-expanded="true"><ul>'
    contents = '<nav class="md-nav" aria-label="Errors"><ul>'
    outermost = '<nav class="md-nav md-nav--primary" aria-label="Navigation" data-md-level="0">'
    amended = builder().amended
    assert amended(menu) == '<nav class="md-nav" role="none" data-md-level="1"><ul>'
    assert amended(contents) == '<nav class="md-nav" role="none"><ul>'
    assert amended(outermost) == outermost
    assert amended("<th></th><th>one</th>") == "<td></td><th>one</th>"


def test_drawings() -> None:
    """Each has words for who can't see it, needs nothing from elsewhere, and is on a page."""
    texts = [page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))]
    drawings = sorted((ROOT / "docs" / "images").glob("*.svg"))
    assert len(drawings) >= 6
    for drawing in drawings:
        text = drawing.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "<title" in text or "aria-label=" in text
        assert re.findall(r"https?:|//|href|<script|@import|<foreignObject", text) == []
        has_dark = "prefers-color-scheme: dark" in text or 'fill="#fff"' in text
        assert has_dark or drawing.name == "badges.svg"  # which are dark on each page
        assert any(f"images/{drawing.name})" in each for each in texts), drawing.name


def test_versions_are_listed_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version has a directory, and the start page leads to the newest, whichever came last."""
    docs = builder()
    monkeypatch.setattr(docs, "SITE", tmp_path / "site")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("the site")
    pages = tmp_path / "pages"

    for version in ("0.2", "0.10", "0.9"):
        docs.publish(version, pages)

    assert re.findall(r'"version": "(.*?)"', (pages / "versions.json").read_text()) == [
        "0.10",
        "0.9",
        "0.2",
    ]
    assert (pages / "0.9" / "index.html").read_text() == "the site"
    assert "url=0.10/" in (pages / "index.html").read_text()


def test_the_tutorials_code_is_the_examples() -> None:
    """Each block of the tutorial that isn't a whole application is in examples/tutorial."""
    example = (_EXAMPLE / "main.py").read_text() + (_EXAMPLE / "test_main.py").read_text()
    blocks = [
        block
        for page in sorted(_TUTORIAL.glob("*.md"))
        for block in _BLOCK.findall(page.read_text())
    ]
    assert len(blocks) >= 6
    assert [b for b in blocks if "app = FastAPI(" not in b and b.strip() not in example] == []


def test_the_tutorials_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests that the tutorial ends with pass."""
    monkeypatch.setenv("SESSION_SECRET_KEY", generate_key())
    monkeypatch.setenv("REDIS_URL", "memory://")
    monkeypatch.syspath_prepend(str(_EXAMPLE))
    names = ("main", "test_main")
    try:
        tests = importlib.import_module("test_main")
        functions = [name for name in vars(tests) if name.startswith("test_")]
        assert len(functions) == 3
        for name in functions:
            getattr(tests, name)()
    finally:
        for name in names:
            sys.modules.pop(name, None)


_ERRORS = re.compile(r"(Alias|Configuration|Session\w*|CrossSite|Store\w*)Error")


def _message(node: ast.expr) -> str:
    """A message as it is written, with … for what it fills in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_message(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _message(node.left) + _message(node.right)
    return "…"


def _messages() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "redis_sessions").rglob("*.py"):
        if path.relative_to(ROOT / "redis_sessions").parts[0] in ("cli", "demo", "testing"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
                message = _message(node.args[0])
                if _ERRORS.fullmatch(node.func.id) and message.strip("…; "):
                    found.add(message)
    return found


def test_errors_are_listed() -> None:
    """docs/errors.md has each message that doesn't begin with its option, and none that is gone."""
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", page.split("## Options")[1], re.MULTILINE)
    patterns = [re.compile(re.escape(row).replace("…", ".+")) for row in rows]
    messages = _messages()

    assert len(messages) > 100
    assert [p.pattern for p in patterns if not any(p.match(each) for each in messages)] == []
    free = [each for each in messages if not re.match(r"\w+(=|= )", each)]
    assert [each for each in free if not any(p.match(each) for p in patterns)] == []

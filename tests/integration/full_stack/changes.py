"""Puts the hunks of docs/migration/full-stack-template.md into effect."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support import ROOT

PAGE: Final = ROOT / "docs" / "migration" / "full-stack-template.md"
_HERE: Final = Path(__file__).parent
_HUNK: Final = re.compile(
    r"^```diff\n# backend/(\S+?\.py)(?:, class (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_PLACE: Final = re.compile(r"(?:([\w, ]+): )?(?:(parameters)|(behind|before) (.+))")


def hunks() -> list[tuple[str, str, str]]:
    """Of the page: the file, the class if it is about one, and the lines."""
    return _HUNK.findall(PAGE.read_text())


def unchanged(into: Path) -> None:
    """A copy of `app` and `tests`, as packages of these names."""
    for source in _HERE.glob("*/**/*.py"):
        target = into / source.relative_to(_HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace(f"{__package__}.", ""))


def apply(into: Path) -> None:
    """Apply each hunk to a copy. ValueError if one doesn't find its place."""
    for name, class_, lines in hunks():
        path = into / name
        module = ast.parse(path.read_text())
        place = ""
        for kind, text in _parts(lines):
            if kind == "#":
                place = text
            elif kind == "-":
                _remove(module, {each.strip() for each in text.split(",")})
            else:
                _add(_class(module, class_) if class_ else module, place, textwrap.dedent(text))
        path.write_text(ast.unparse(module))


def _parts(lines: str) -> Iterator[tuple[str, str]]:
    """`#` and a place, `-` and names, or `+` and all of the lines that follow each other."""
    for part in re.finditer(r"^(?:[#-].*\n|(?:\+.*\n)+)", lines, re.MULTILINE):
        kind = part[0][0]
        yield (
            kind,
            re.sub(r"^\+", "", part[0], flags=re.MULTILINE) if kind == "+" else part[0][1:].strip(),
        )


def _class(module: ast.Module, name: str) -> ast.ClassDef:
    return next(n for n in module.body if isinstance(n, ast.ClassDef) and n.name == name)


def _add(where: ast.Module | ast.ClassDef, place: str, code: str) -> None:
    if not place:
        _define(where.body, ast.parse(code).body)
        return
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ValueError(f"no place: {place}")
    names, parameters, side, text = found.groups()
    targets: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [where]
    if names is not None:
        targets = [_function(where.body, name.strip()) for name in names.split(",")]
    for target in targets:
        if parameters:
            assert isinstance(target, ast.FunctionDef)
            new = ast.parse(f"def f(*, {code.strip()}): ...").body[0]
            assert isinstance(new, ast.FunctionDef)
            target.args.kwonlyargs += new.args.kwonlyargs
            target.args.kw_defaults += new.args.kw_defaults
        else:
            at = _statement(target.body, text)
            target.body[at + (side == "behind") : at + (side == "behind")] = ast.parse(code).body


def _statement(body: list[ast.stmt], text: str) -> int:
    """Which one of them has this text: the only one."""
    found = [i for i, statement in enumerate(body) if text in ast.unparse(statement)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} statements have {text!r}")
    return found[0]


def _function(body: list[ast.stmt], name: str) -> ast.FunctionDef:
    for statement in body:
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return statement
    raise ValueError(f"no function {name}")


def _define(body: list[ast.stmt], new: list[ast.stmt]) -> None:
    """Imports go to the others; a definition takes the place of its namesake, or the end."""
    for statement in new:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            last = max(i for i, s in enumerate(body) if isinstance(s, ast.Import | ast.ImportFrom))
            body.insert(last + 1, statement)
            continue
        at = [i for i, s in enumerate(body) if _names(s) & _names(statement)]
        body[slice(at[0], at[0] + 1) if at else slice(len(body), None)] = [statement]


def _remove(module: ast.Module, names: set[str]) -> None:
    """ValueError for a name that isn't there."""
    bodies = [module.body, *(n.body for n in module.body if isinstance(n, ast.ClassDef))]
    missing = set(names)
    for body in bodies:
        for statement in list(body):
            missing -= _names(statement)
            if isinstance(statement, ast.ImportFrom):
                statement.names = [n for n in statement.names if n.name not in names]
                if not statement.names:
                    body.remove(statement)
            elif _names(statement) & names:
                body.remove(statement)
    if missing:
        raise ValueError(f"not there: {missing}")


def _names(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef() | ast.ClassDef():
            return {statement.name}
        case ast.Assign():
            return {n.id for n in statement.targets if isinstance(n, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id)):
            return {id}
        case ast.ImportFrom():
            return {n.name for n in statement.names}
        case _:
            return set()

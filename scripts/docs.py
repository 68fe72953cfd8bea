#!/usr/bin/env python
"""Build the documentation site into site/, without network: `scripts/docs.py`, or `make docs`.

The pages in docs/ are written for a repository host as well. What the two need differently is
changed on the way, in build/docs/:

- README.md and the other pages outside of docs/ come along as project/….md.
- Several code blocks after comments of the form `<!-- tab: NAME -->` become tabs.

The generator's pages are amended where a screen reader would stumble (`amended`).

`--version 0.2 --into pages` adds a version beside those that are in pages/ already. The site's
header then has a menu of them, and pages/ leads to the newest.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGED = ROOT / "build" / "docs"
SITE = ROOT / "site"

# Pages outside of docs/, and their names in the site.
OUTSIDE = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/README.md": "project/benchmarks.md",
}

_IMAGES = {".png", ".svg", ".gif", ".webp"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_TAB = re.compile(r"^<!-- tab: (.+?) -->\n+(^```.*?^```\n)", re.MULTILINE | re.DOTALL)
_SUBMENU = re.compile(r'<nav class="md-nav"( data-md-level="\d")? aria-label[^>]*?(?=>)')
_VERSION = re.compile(r'"version": ?\{[^}]*\}')


def stage() -> None:
    """Write what the generator reads."""
    shutil.rmtree(STAGED, ignore_errors=True)
    pages = {path: path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    pages |= {ROOT / path: Path(name) for path, name in OUTSIDE.items()}
    for path, name in pages.items():
        target = STAGED / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_staged(path, name, pages))
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in {".css", ".js", *_IMAGES}:
            target = STAGED / path.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _staged(path: Path, name: Path, pages: dict[Path, Path]) -> str:
    """A page, with links as they are in the site."""
    up = "../" * (len(name.parts) - 1)

    def relinked(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        file, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            return match[0]
        anchor = f"#{anchor}" if anchor else ""
        if not file:
            return f"{mark}[{text}]({anchor})"
        target = (path.parent / file).resolve()
        if target in pages:
            return f"{mark}[{text}]({up}{pages[target].as_posix()}{anchor})"
        if target.is_relative_to(ROOT / "docs") and target.suffix in _IMAGES:
            return f"{mark}[{text}]({up}{target.relative_to(ROOT / 'docs').as_posix()})"
        # A file of the repository that isn't in the site.
        return text if mark else f"{text} (`{target.relative_to(ROOT).as_posix()}`)"

    text = path.read_text()
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(text):
        parts += (_LINK.sub(relinked, text[end : fence.start()]), fence[0])
        end = fence.end()
    parts.append(_LINK.sub(relinked, text[end:]))
    return _TAB.sub(_tab, "".join(parts))


def _tab(match: re.Match[str]) -> str:
    body = "".join(f"    {line}" if line.strip() else line for line in match[2].splitlines(True))
    return f'=== "{match[1]}"\n\n{body}\n'


def build(*, versioned: bool = False) -> int:
    """Run the generator. A broken link, or an anchor that isn't there, fails.

    A site that isn't beside other versions doesn't look for them.
    """
    # It adds to what is there, and remembers what it did.
    shutil.rmtree(SITE, ignore_errors=True)
    program = Path(sys.executable).with_name("zensical")
    failed = subprocess.run(
        [program, "build", "--strict", "--clean", "--config-file", ROOT / "mkdocs.yml"],
        cwd=ROOT,
        check=False,
    ).returncode
    for page in SITE.rglob("*.html"):
        html = amended(page.read_text())
        page.write_text(html if versioned else _VERSION.sub('"version":null', html))
    return failed


def amended(html: str) -> str:
    """A page of the theme, without what axe-core finds fault with.

    A menu inside of a menu is no landmark of its own: several have the same name, or none. The
    corner of a table is no header if it is empty.
    """
    html = _SUBMENU.sub(r'<nav class="md-nav" role="none"\1', html)
    return html.replace("<th></th>", "<td></td>")


def publish(version: str, pages: Path) -> None:
    """Put the site beside its other versions, as the theme's menu expects them."""
    shutil.rmtree(pages / version, ignore_errors=True)
    shutil.copytree(SITE, pages / version)
    listing = pages / "versions.json"
    known = json.loads(listing.read_text()) if listing.exists() else []
    versions = {entry["version"] for entry in known} | {version}
    newest_first = sorted(versions, key=lambda v: [*map(int, v.split("."))], reverse=True)
    entries: list[dict[str, object]] = [
        {"version": each, "title": each, "aliases": []} for each in newest_first
    ]
    entries[0]["aliases"] = ["latest"]
    listing.write_text(json.dumps(entries, indent=1))
    (pages / "index.html").write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={newest_first[0]}/">'
        f'<a href="{newest_first[0]}/">Documentation</a>\n'
    )


def main() -> int:
    """Build, and publish if a version is named."""
    parser = argparse.ArgumentParser(description="Build the documentation site into site/.")
    parser.add_argument("--version", help="such as 0.2: add this version to the directory --into")
    parser.add_argument("--into", type=Path, help="a directory with all versions")
    options = parser.parse_args()
    if (options.version is None) != (options.into is None):
        parser.error("--version and --into go together")
    if options.version is not None and not re.fullmatch(r"\d+(\.\d+)*", options.version):
        parser.error("--version is numbers with dots between them, such as 0.2")
    stage()
    failed = build(versioned=options.version is not None)
    if not failed and options.version is not None:
        publish(options.version, options.into)
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""What is released says what is true; `make dist` builds and installs it."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

import redis_sessions
from hatch_build import ProjectMetadata, absolute
from tests.support import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
AT = "https://forge.example/us/it"
VERSION = PROJECT["project"]["version"]


def test_one_version() -> None:
    """The package, its metadata and the newest section of the changelog have one version."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert sections[1][0] == VERSION == redis_sessions.__version__
    assert sections[1][1]


def test_classifiers_are_what_ci_runs() -> None:
    """A Python is named if .ci/run runs the tests on it."""
    named = [text.rpartition(" ")[2] for text in PROJECT["project"]["classifiers"]]
    runs = re.findall(r"python(3\.\d+)", (ROOT / ".ci" / "run").read_text())
    assert sorted(each for each in named if re.fullmatch(r"3\.\d+", each)) == sorted({*runs})


def test_the_badges_are_true() -> None:
    """They name the Pythons of the classifiers, and the licence: `scripts/pictures.py badges`."""
    badges = (ROOT / "docs" / "images" / "badges.svg").read_text()
    pythons = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert f">{' | '.join(pythons)}</text>" in badges
    assert f">{PROJECT['project']['license']}</text>" in badges
    assert "href" not in badges


def test_one_line_names_the_repository() -> None:
    """Nothing but one line of pyproject.toml says where the repository is."""
    repository = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    named = repository.partition("//")[2]
    folders = ("", "docs", "deploy", "redis_sessions", "scripts", "tests", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).glob("*") if path.is_file()]
    texts = {file: file.read_text(errors="replace") for file in files}
    assert [file.name for file, text in texts.items() for _ in range(text.count(named))] == [
        "pyproject.toml"
    ]


def test_pypi_has_the_readme_with_links_that_lead_somewhere() -> None:
    """All of the README's links are absolute on PyPI, to the files of this version."""
    hook = ProjectMetadata(str(ROOT), {"repository": AT})
    metadata: dict[str, Any] = {"version": VERSION}
    hook.update(metadata)

    text = metadata["readme"]["text"]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'\b(?:src|href)="([^"]+)"', prose)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    ours = [link for link in links if link.startswith(AT)]
    for link in ours:
        path = re.fullmatch(rf"{AT}/(?:blob|raw)/v{re.escape(VERSION)}/([^#]+)(?:#.*)?", link)
        assert path, link
        assert (ROOT / path[1]).exists(), link
    assert {url for url in metadata["urls"].values() if not url.startswith(AT)} == set()


@pytest.mark.parametrize(
    ("written", "published"),
    [
        ("[a](docs/a.md#b)", f"[a]({AT}/blob/v1/docs/a.md#b)"),
        ("[here](#below)", f"[here]({AT}/blob/v1/README.md#below)"),
        ("[out](https://example.com/a)", "[out](https://example.com/a)"),
        ('<a href="mailto:a@example.com">', '<a href="mailto:a@example.com">'),
        ("![seen](docs/a.gif)", f"![seen]({AT}/raw/v1/docs/a.gif)"),
        (
            "[![seen](docs/a.gif)](docs/a.md)",
            f"[![seen]({AT}/raw/v1/docs/a.gif)]({AT}/blob/v1/docs/a.md)",
        ),
        ('<img src="docs/a.svg">', f'<img src="{AT}/raw/v1/docs/a.svg">'),
        ("`x[0](y)`", "`x[0](y)`"),
        ("```python\nx[0](y)\n```\n[a](b)", f"```python\nx[0](y)\n```\n[a]({AT}/blob/v1/b)"),
    ],
)
def test_links_become_absolute(written: str, published: str) -> None:
    """Relative links and images lead into the repository; code and other links stay."""
    assert absolute(written, AT, "v1") == published


def test_the_skill_puts_no_password_into_a_url() -> None:
    """FastAPI takes a plain `password: str` from the query, which servers log."""
    skill = (ROOT / "redis_sessions" / "SKILL.md").read_text()
    handlers = re.findall(
        r"^@app\.\w+\(.*?\n(?:async )?def \w+\((.*?)\) ->", skill, re.MULTILINE | re.DOTALL
    )
    assert handlers
    assert [given for given in handlers if "password" in given] == []
    assert "password=" not in skill


def test_the_readme_lists_the_extras() -> None:
    """All that users install, with what each is for."""
    extras = PROJECT["project"]["optional-dependencies"].keys()
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(extras - {"bench", "dev", "dist", "docs", "test"})


def test_the_skill_has_its_front_matter() -> None:
    """SKILL.md begins with a name and a description, as assistants look for them."""
    skill = (ROOT / "redis_sessions" / "SKILL.md").read_text()
    front = re.match(r"---\nname: ([a-z-]{1,64})\ndescription: ([^\n]{1,1024})\n---\n", skill)
    assert front
    assert front[1] == PROJECT["project"]["name"]

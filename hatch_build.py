"""What PyPI shows, made at build time of README.md and of where the repository is.

PyPI knows no files beside the README, so each relative link becomes one to the repository, at the
version's tag. pyproject.toml names the repository in one line, under
`[tool.hatch.metadata.hooks.custom]`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, cast

from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["ProjectMetadata", "absolute"]

_CODE: Final = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_ELSEWHERE: Final = r"(?![a-zA-Z][a-zA-Z0-9+.-]*:|/)"  # behind it begins a relative link
_IMAGE: Final = re.compile(rf"""(!\[[^\]]*\]\(|\bsrc(?:set)?="){_ELSEWHERE}([^)"\s]+)""")
_LINK: Final = re.compile(rf"""(\]\(|\bhref="){_ELSEWHERE}([^)"\s]+)""")


class ProjectMetadata(MetadataHookInterface):
    """The fields of `[project]` that are `dynamic`: `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        config = cast("dict[str, str]", self.config)  # hatchling's type says less
        repository = config["repository"]
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        tag = f"v{metadata['version']}"
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(readme, repository, tag),
        }
        metadata["urls"] = {
            "Source": repository,
            "Documentation": f"{repository}/tree/{tag}/docs",
            "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
            "Issues": f"{repository}/issues",
            "Security": f"{repository}/blob/{tag}/SECURITY.md",
        }


def absolute(text: str, repository: str, tag: str) -> str:
    """The README's Markdown, with each relative link leading into the repository at this tag."""

    def page(link: re.Match[str]) -> str:
        path = f"README.md{link[2]}" if link[2].startswith("#") else link[2]
        return f"{link[1]}{repository}/blob/{tag}/{path}"

    def changed(prose: str) -> str:
        prose = _IMAGE.sub(rf"\1{repository}/raw/{tag}/\2", prose)
        return _LINK.sub(page, prose)

    parts = _CODE.split(text)  # every second one is code
    return "".join(part if n % 2 else changed(part) for n, part in enumerate(parts))

"""Who may import whom: the contracts in pyproject.toml."""

import subprocess

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

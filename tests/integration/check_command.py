"""`redis-sessions check`, run by tests, and what it finds."""

from __future__ import annotations

import json
from typing import Any

from tests.support.command_line import Result, command

SECRET = "a-password-of-ours"


def check(url: str, *args: str) -> Result:
    return command("check", url, *args)


def levels(url: str, *args: str, status: int | None = None) -> dict[str, dict[str, Any]]:
    """Each check's worst finding, by name, from `--json`; the status goes with the worst.

    A busy machine's server may answer late, which is a warning.
    """
    done = check(url, "--json", *args)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    order = ["unknown", "ok", "warn", "fail"]
    assert found["status"] == ["ok", "warn", "fail"][done.exit_code]
    if status is not None:
        late = any((f["check"], f["level"]) == ("latency", "warn") for f in found["findings"])
        assert done.exit_code == max(status, late), done.stdout
    worst: dict[str, dict[str, Any]] = {}
    for finding in sorted(found["findings"], key=lambda one: order.index(one["level"])):
        worst[finding["check"]] = finding
    return worst

"""What docs/how-to/error-trackers.md says of Sentry: 3.x, and 2.x by `make test-lowest`."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from typing import Any

from sentry_sdk import VERSION

from tests.support import ROOT


def _found(options: dict[str, Any]) -> set[str]:
    """The secrets, by name, that Sentry is sent with these options."""
    program = [sys.executable, "-m", "tests.interop.tracked_app", json.dumps(options)]
    done = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    told, sent = json.loads(done.stdout)
    assert "there are 2 fields" in sent
    return {name for name, value in told.items() if value in sent}


def _of_the_page() -> dict[str, Any]:
    """The options in the page's code, but for the address."""
    page = (ROOT / "docs" / "how-to" / "error-trackers.md").read_text()
    code = re.search(r"^sentry_sdk\.init\(.*?^\)$", page, re.MULTILINE | re.DOTALL)
    assert code is not None
    (call,) = ast.parse(code[0]).body
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    given = {word.arg: word.value for word in call.value.keywords}
    return {str(name): ast.literal_eval(value) for name, value in given.items() if name != "dsn"}


def test_no_secret_is_sent() -> None:
    """With the page's options none of a request's secrets is, wherever Sentry finds them."""
    assert _found(_of_the_page()) == set()


def test_local_variables_are_sent() -> None:
    """By default they are, and with them the request's cookies and headers."""
    all_of_them = {"__Host-session", "sid", "visit", "X-Session-Token", "X-Visit", "code"}
    assert _found({}) - {"password"} == all_of_them


def test_what_is_sent_without_local_variables() -> None:
    """It is what the page's table says, and another thing in each version."""
    if VERSION.startswith("2."):
        options: dict[str, Any] = {"include_local_variables": False}
        rest = {"X-Session-Token", "X-Visit", "code"}
    else:
        options = {"data_collection": {"stack_frame_variables": False}}
        rest = {"visit", "X-Visit", "password", "code"}
    assert _found(options) == rest

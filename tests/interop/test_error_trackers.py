"""What docs/how-to/error-trackers.md says of Sentry."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sentry_sdk.scrubber import DEFAULT_DENYLIST, EventScrubber

from tests.support import ROOT


def _of_the_page() -> EventScrubber:
    page = (ROOT / "docs" / "how-to" / "error-trackers.md").read_text()
    line = re.search(r"^scrubber = (EventScrubber\(.*\))$", page, re.MULTILINE)
    assert line is not None
    names = {"EventScrubber": EventScrubber, "DEFAULT_DENYLIST": DEFAULT_DENYLIST}
    scrubber = eval(line[1], names)  # noqa: S307 - the page's code is what is tested
    assert isinstance(scrubber, EventScrubber)
    return scrubber


@pytest.mark.parametrize("name", ["__Host-session", "sid"])
def test_cookies(name: str) -> None:
    """With the page's list Sentry masks our cookies, which it doesn't by itself."""
    shown: list[bool] = []
    for scrubber in (EventScrubber(), _of_the_page()):
        event: Any = {"request": {"cookies": {name: "the token"}, "headers": {}}}
        scrubber.scrub_event(event)
        shown.append("the token" in str(event["request"]["cookies"][name]))
    assert shown == [True, False]

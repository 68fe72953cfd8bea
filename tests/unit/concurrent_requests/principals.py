"""Principals that two keys name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def second_factor(data: Mapping[str, Any]) -> Any:
    """A principal of two keys: nobody without the second factor."""
    return data.get("user") if data.get("mfa") else None


def either(data: Mapping[str, Any]) -> Any:
    """A principal that two keys may name."""
    return data.get("user") or data.get("guest")

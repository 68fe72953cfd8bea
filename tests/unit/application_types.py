"""Types of an application's own, whose values sessions hold."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Color(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int = 0

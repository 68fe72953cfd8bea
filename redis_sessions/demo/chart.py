"""A chart of latencies, as numbers that the template draws: one dot for each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

__all__ = ["chart"]

_WIDTH: Final = 600
_HEIGHT: Final = 160
_HIGH: Final = 2.5
"""How many of the higher median the chart is high. Slower requests stand at the top."""


def chart(series: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Dots in a field of 600 by 160, and the median of each series. Times are microseconds."""
    top = max(median(values) for values in series.values()) * _HIGH
    drawn = [
        {
            "name": name,
            "median": round(median(values)),
            "dots": [
                (
                    round((number + 0.5) * _WIDTH / len(values), 1),
                    round(_HEIGHT - min(value, top) / top * _HEIGHT, 1),
                )
                for number, value in enumerate(values)
            ],
            "line": round(_HEIGHT - median(values) / top * _HEIGHT, 1),
        }
        for name, values in series.items()
    ]
    return {"width": _WIDTH, "height": _HEIGHT, "top": round(top), "series": drawn}

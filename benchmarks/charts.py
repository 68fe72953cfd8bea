"""A chart or two for each benchmark, as SVG, by pygal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import codec
from benchmarks.budgets import Figures, rows_of
from benchmarks.markdown import unique
from benchmarks.peers import PEERS
from benchmarks.ratios import ratio_of, rounds_of

__all__ = ["draw"]

Chart = Any
NOT_DRAWN = re.compile(rb"<!--.*?-->|<script.*?</script>|<script[^>]*/>", re.DOTALL)
COLOURS = ("#0b6e4f", "#74a892", "#b0b0b0", "#c98c5a", "#5a7fc9", "#8a5ac9", "#c95a7f", "#444444")


def _chart(kind: str, **options: Any) -> Chart:
    pygal = import_module("pygal")
    style = import_module("pygal.style").Style(
        background="#ffffff", plot_background="#ffffff", colors=COLOURS, font_family="sans-serif"
    )
    # The same file for the same figures, and nothing that is loaded from elsewhere.
    fixed = {"js": (), "no_prefix": True, "width": 900, "height": 420, "legend_at_bottom": True}
    return getattr(pygal, kind)(style=style, **fixed, **options)


def _ours_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: PEERS[name].package != "redis-sessions")


def _shown(row: Mapping[str, Any], yardstick: Mapping[str, Any], measure: str) -> float:
    return round(ratio_of(row, yardstick, measure).value, 2)


def overhead(figures: Figures) -> Chart:
    rows = rows_of(figures, "overhead", "overhead", lanes=64)
    chart = _chart("Bar", title="CPU for a request's session ÷ the signed cookie's, 64 in flight")
    operations = chart.x_labels = unique(row["operation"] for row in rows)
    found = {(row["peer"], row["operation"]): row for row in rows}
    for name in _ours_first(unique(row["peer"] for row in rows)):
        pairs = [(found.get((name, op)), found["cookie", op]) for op in operations]
        values = [_shown(own, least, "cpu") if own else None for own, least in pairs]
        chart.add(PEERS[name].title, values)
    return chart


def codecs(figures: Figures) -> Chart:
    rows = rows_of(figures, "codec", "codec")
    rows = [row for row in rows if row["size"] == min(row["size"] for row in rows)]
    size = rows[0]["size"]
    chart = _chart("Bar", title=f"Time for {size} B ÷ {codec.COOKIE}")
    chart.x_labels = codec.OPERATIONS
    found = {(row["codec"], row["operation"]): row for row in rows}
    for name in sorted(unique(row["codec"] for row in rows), key=lambda name: name != codec.OURS):
        pairs = [(found[name, op], found[codec.COOKIE, op]) for op in codec.OPERATIONS]
        chart.add(name, [_shown(own, least, "us") for own, least in pairs])
    return chart


def http(figures: Figures) -> Chart:
    rows = rows_of(figures, "http", "http")
    chart = _chart("Bar", title="Requests a second ÷ the signed cookie's, over HTTP")
    cells = unique((row["operation"], row["connections"]) for row in rows)
    chart.x_labels = [f"{operation}, {connections}" for operation, connections in cells]
    found = {(row["peer"], row["operation"], row["connections"]): row for row in rows}
    for name in _ours_first(unique(row["peer"] for row in rows)):
        pairs = [(found[name, *cell], found["cookie", *cell]) for cell in cells]
        chart.add(PEERS[name].title, [_shown(own, least, "rate") for own, least in pairs])
    return chart


def redis(figures: Figures) -> Chart:
    rows = rows_of(figures, "redis", "redis")
    chart = _chart("Bar", title="The server's CPU for a request, µs")
    cells = unique((row["operation"], row["lanes"]) for row in rows)
    chart.x_labels = [f"{operation}, {lanes}" for operation, lanes in cells]
    found = {
        (row["peer"], row["operation"], row["lanes"]): min(row["server_cpu_us"]) for row in rows
    }
    for name in _ours_first(unique(row["peer"] for row in rows)):
        chart.add(PEERS[name].title, [found[name, *cell] for cell in cells])
    return chart


def scale(figures: Figures) -> Chart:
    rows = rows_of(figures, "scale", "size", operation="read")
    chart = _chart("Line", title="CPU for a read's session by its size, µs", logarithmic=True)
    sizes = unique(row["size"] for row in rows)
    chart.x_labels = [f"{size:,} B" for size in sizes]
    cpu = {(row["peer"], row["size"]): rounds_of(row, "cpu").best() for row in rows}
    for name in _ours_first(unique(row["peer"] for row in rows)):
        chart.add(PEERS[name].title, [cpu[name, size] for size in sizes])
    return chart


def nodes(figures: Figures) -> Chart:
    rows = rows_of(figures, "scale", "nodes", lanes=64, near=False)
    chart = _chart(
        "Bar", title="CPU for a request's session by a Cluster's nodes, µs, 64 in flight"
    )
    chart.x_labels = [
        f"Cluster of {count}" if count else "single server"
        for count in unique(row["nodes"] for row in rows)
    ]
    for operation in unique(row["operation"] for row in rows):
        same = [row for row in rows if row["operation"] == operation]
        chart.add(f"{operation}, the client", [rounds_of(row, "cpu").best() for row in same])
        busiest = [max(row["server_cpu_us"]) for row in same]
        chart.add(f"{operation}, the busiest node", busiest)
    return chart


CHARTS: Mapping[str, tuple[str, str, Callable[[Figures], Chart]]] = {
    "overhead": ("overhead", "overhead", overhead),
    "codec": ("codec", "codec", codecs),
    "http": ("http", "http", http),
    "redis": ("redis", "redis", redis),
    "scale": ("scale", "size", scale),
    "nodes": ("scale", "nodes", nodes),
}
"""By file: the benchmark and its table that each needs, and how it is drawn."""


def draw(figures: Figures, directory: Path) -> list[Path]:
    """The charts of what has been run; none without pygal."""
    if find_spec("pygal") is None:
        print("pygal is missing, so no charts: pip install -e '.[bench]'")
        return []
    drawn: list[Path] = []
    for name, (benchmark, table, chart) in CHARTS.items():
        if rows_of(figures, benchmark, table):
            path = directory / f"{name}.svg"
            path.write_bytes(NOT_DRAWN.sub(b"", chart(figures).render()) + b"\n")
            drawn.append(path)
    return drawn

"""The figures as Markdown: ratios first, absolute numbers in parentheses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import codec, near_tables
from benchmarks.budgets import BUDGETS, MICROSECONDS, Figures, Rows, rows_of, verdict
from benchmarks.markdown import NOT_RUN, beside, markdown, number, rounds, title, unique
from benchmarks.peers import OURS, PEERS
from benchmarks.ratios import ratio_of, rounds_of
from benchmarks.scale import knee

__all__ = ["SECTIONS"]

# -- overhead


def overhead(figures: Figures) -> str:
    rows = rows_of(figures, "overhead", "overhead")
    parts = [
        overhead_of(rows, operation, measure, words)
        for operation in unique(row["operation"] for row in rows)
        for measure, words in (("cpu", "CPU"), ("wall", "time"))
    ]
    return "\n\n".join(parts)


def overhead_of(rows: Rows, operation: str, measure: str, words: str) -> str:
    here = {(row["peer"], row["lanes"]): row for row in rows if row["operation"] == operation}
    lanes = unique(lanes for _, lanes in here)
    head = f"{operation}, {words}, {rounds(here.values(), measure)}; in flight:"
    table = [[head, *(f"{n:,}" for n in lanes), "nested changes"]]
    for name in unique(name for name, _ in here):
        cells = [beside(here[name, n], here["cookie", n], measure) for n in lanes]
        table.append([title(name), *cells, "seen" if PEERS[name].nested else "need assigning"])
    return markdown(table)


def latency(figures: Figures) -> str:
    rows = rows_of(figures, "overhead", "latency")
    lanes = unique(row["lanes"] for row in rows)
    best = max((row["rounds"] for row in rows), default=0)
    head = f"p50 / p99 in ms, best of {best}; in flight:"
    table = [[head, *(f"{n:,}" for n in lanes), "connections", "errors"]]
    for name in unique(row["peer"] for row in rows):
        own = [row for row in rows if row["peer"] == name]
        cells = [f"{row['p50_ms']:.2f} / {row['p99_ms']:.2f}" for row in own]
        errors = str(sum(row["errors"] for row in own))
        table.append([title(name), *cells, str(own[-1]["connections"]), errors])
    return markdown(table)


# -- codec


def codecs(figures: Figures) -> str:
    rows = rows_of(figures, "codec", "codec")
    sizes = unique(row["size"] for row in rows)
    found = {(row["operation"], row["codec"], row["size"]): row for row in rows}
    table = [[f"µs, {rounds(rows, 'us')}", "", *(f"{size:,} B" for size in sizes)]]
    for operation in codec.OPERATIONS:
        for name in unique(row["codec"] for row in rows):
            cells = [
                beside(found[operation, name, size], found[operation, codec.COOKIE, size], "us")
                for size in sizes
            ]
            table.append([operation, name, *cells])
    stored = {(row["codec"], row["size"]): row["stored"] for row in rows}
    for name in unique(row["codec"] for row in rows):
        cells = [f"{stored[name, n] / n:.2f} ({stored[name, n]:,} B)" for n in sizes]
        table.append(["stored ÷ packed", name, *cells])
    return markdown(table)


# -- http


def http(figures: Figures) -> str:
    rows = rows_of(figures, "http", "http")
    cells = unique((row["operation"], row["connections"]) for row in rows)
    heads = [f"{operation}, {connections}" for operation, connections in cells]
    best = rounds(rows, "rate")
    rates = [[f"requests/s, {best}; connections:", *heads]]
    waits = [[f"p50 / p99 / p99.9 in ms, {best}", *heads]]
    for name in unique(row["peer"] for row in rows):
        rate, wait = [title(name)], [title(name)]
        for operation, connections in cells:
            some = {
                row["peer"]: row
                for row in rows
                if (row["operation"], row["connections"]) == (operation, connections)
            }
            rate.append(beside(some[name], some["cookie"], "rate"))
            shown = (number(some[name][f"{p}_ms"]) for p in ("p50", "p99", "p999"))
            wait.append(" / ".join(shown))
        rates.append(rate)
        waits.append(wait)
    return markdown(rates) + "\n\n" + markdown(waits)


# -- redis


def redis(figures: Figures) -> str:
    rows = rows_of(figures, "redis", "redis")
    cells = unique((row["operation"], row["lanes"]) for row in rows)
    parts: list[str] = []
    for measure, words, form in (
        ("commands", "commands for a request", "{:.2f}"),
        ("server_cpu_us", "the server's CPU, µs", "{:.1f}"),
        ("bytes_in", "bytes to the server", "{:.0f}"),
        ("bytes_out", "bytes from the server", "{:.0f}"),
    ):
        head = f"{words}, {rounds(rows, measure)}; in flight:"
        table = [[head, *(f"{name}, {n}" for name, n in cells)]]
        for peer in unique(row["peer"] for row in rows):
            found = {
                (row["operation"], row["lanes"]): min(row[measure])
                for row in rows
                if row["peer"] == peer
            }
            table.append([title(peer), *(form.format(found[cell]) for cell in cells)])
        parts.append(markdown(table))
    return "\n\n".join(parts)


def memory(figures: Figures) -> str:
    rows = rows_of(figures, "redis", "memory")
    counts = unique(row["sessions"] for row in rows)
    each = {(row["peer"], row["sessions"]): min(row["bytes_each"]) for row in rows}
    least = {n: min(used for (_, m), used in each.items() if m == n) for n in counts}
    heads = [f"{n:,} sessions" for n in counts]
    table = [["bytes of memory each, ÷ the least", *heads, "keys: name + value, B"]]
    for name in unique(row["peer"] for row in rows):
        keys = next(row["keys"] for row in rows if row["peer"] == name)
        cells = [f"{each[name, n] / least[n]:.2f} ({each[name, n]:.0f})" for n in counts]
        table.append(
            [title(name), *cells, ", ".join(f"{key['name']} + {key['value']}" for key in keys)]
        )
    return markdown(table)


# -- scale


def arrivals(figures: Figures) -> str:
    rows = rows_of(figures, "scale", "arrivals")
    workers = unique(row["workers"] for row in rows)
    best = max((row["round"] for row in rows), default=0)
    table = [[f"reads a second in time, best of {best}; workers:", *map(str, workers)]]
    for name in unique(row["peer"] for row in rows):
        cells = [
            f"{knee(rows, name, n) / max(1, knee(rows, 'cookie', n)):.2f} ({knee(rows, name, n):,})"
            for n in workers
        ]
        table.append([title(name), *cells])
    return markdown(table)


def growth(key: str, form: Callable[[int], str]) -> Callable[[Figures], str]:
    def section(figures: Figures) -> str:
        rows = rows_of(figures, "scale", key)
        steps = unique(row[key] for row in rows)
        found = {(row["operation"], row["peer"], row[key]): row for row in rows}
        table = [[f"CPU, 64 in flight, {rounds(rows, 'cpu')}", "", *map(form, steps)]]
        for operation, name in unique((row["operation"], row["peer"]) for row in rows):
            cells = [
                beside(found[operation, name, step], found[operation, "cookie", step], "cpu")
                for step in steps
            ]
            table.append([operation, title(name), *cells])
        return markdown(table)

    return section


def nodes(figures: Figures) -> str:
    rows = rows_of(figures, "scale", "nodes")
    if not rows:
        return NOT_RUN
    steps = unique(row["nodes"] for row in rows)
    heads = [f"Cluster of {step}" if step else "single server" for step in steps]
    best = rounds(rows, "cpu")
    parts: list[str] = []
    for words, shown in (
        (f"CPU of the client, {best}; in flight:", _client_cpu),
        ("CPU of all nodes / of the busiest, µs", _servers_cpu),
        ("batches for a request", _batches),
    ):
        table = [[words, *heads]]
        for operation, lanes, near in unique(map(_nodes_row, rows)):
            same = [row for row in rows if _nodes_row(row) == (operation, lanes, near)]
            cells = [shown(row, same[0]) for row in same]
            table.append([f"{operation}, {lanes}" + (", near copies" * near), *cells])
        parts.append(markdown(table))
    return "\n\n".join(["![CPU by nodes](results/nodes.svg)", *parts])


def _nodes_row(row: Mapping[str, Any]) -> tuple[str, int, bool]:
    return row["operation"], row["lanes"], row["near"]


def _client_cpu(row: Mapping[str, Any], single: Mapping[str, Any]) -> str:
    return beside(row, single, "cpu")


def _servers_cpu(row: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    return f"{sum(row['server_cpu_us']):.2f} / {max(row['server_cpu_us']):.2f}"


def _batches(row: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    return f"{row['batches']:.3f}"


# -- all of it


def budgets(figures: Figures) -> str:
    table = [["", "budget", "measured", ""]]
    for budget in BUDGETS:
        found, word = verdict(budget, figures)
        sign = "≥" if budget.at_least else "≤"
        shown = "-" if found is None else f"{found.value:.3g}{found.doubt}"
        if budget.name in MICROSECONDS and found is not None:
            shown += f" ({MICROSECONDS[budget.name](figures):.1f} µs)"
            word = word.partition(" (")[0]
        table.append([budget.text, f"{sign} {budget.limit:g}", shown, word])
    return markdown(table)


def losses(figures: Figures) -> str:
    """Each place where another is cheaper than ours."""
    found: list[str] = []
    for benchmark, measures in (
        ("overhead", {"cpu": "CPU", "wall": "time"}),
        ("redis", {"commands": "commands", "server_cpu_us": "the server's CPU"}),
    ):
        for row in rows_of(figures, benchmark, benchmark, peer=OURS):
            where = {"operation": row["operation"], "lanes": row["lanes"]}
            same = rows_of(figures, benchmark, benchmark, **where)
            for measure, words in measures.items():
                place = f"{row['operation']}, {row['lanes']:,} in flight, {words}"
                found += _loss(place, row, same, measure)
    for row in rows_of(figures, "redis", "memory", peer=OURS):
        same = rows_of(figures, "redis", "memory", sessions=row["sessions"])
        found += _loss(f"memory, {row['sessions']:,} sessions", row, same, "bytes_each")
    return "\n".join(f"- {line}" for line in found) or "Nowhere in these figures."


def _loss(where: str, ours: Mapping[str, Any], same: Rows, measure: str) -> list[str]:
    ratios = {
        row["peer"]: ratio_of(ours, row, measure)
        for row in same
        if PEERS[row["peer"]].package != "redis-sessions" and rounds_of(row, measure).best() > 0
    }
    better = sorted(
        (name for name, found in ratios.items() if found.value > 1.02), key=ratios.__getitem__
    )
    if not better:
        return []
    named = ", ".join(f"{ratios[name]} times {PEERS[name].title}" for name in reversed(better))
    return [f"{where}: {named}"]


def environment(figures: Figures) -> str:
    """Of the runs that the figures are from; once, if they are the same."""
    lines = unique(_environment(found["environment"]) for found in figures.values())
    return "\n\n".join(lines)


def _environment(found: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    servers = ", ".join(found["servers"])
    return (
        f"{found['date']}: {found['machine']}, {found['system']}, {found['python']}; {servers}; "
        f"{packages}."
    )


SECTIONS: Mapping[str, tuple[str, Callable[[Figures], str]]] = {
    "budgets": ("", budgets),
    "losses": ("", losses),
    "environment": ("", environment),
    "overhead": ("overhead", overhead),
    "latency": ("overhead", latency),
    "codec": ("codec", codecs),
    "http": ("http", http),
    "redis": ("redis", redis),
    "memory": ("redis", memory),
    "size": ("scale", growth("size", lambda size: f"{size:,} B")),
    "live": ("scale", growth("live", lambda live: f"{live:,} sessions")),
    "arrivals": ("scale", arrivals),
    "nodes": ("scale", nodes),
    "hits": ("near", near_tables.hits),
    "tracked": ("near", near_tables.tracked),
    "staleness": ("staleness", near_tables.staleness),
}
"""The sections of the README that are written by `report`: the benchmark each needs, and how."""

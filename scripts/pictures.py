"""Make the pictures of README.md: `python scripts/pictures.py [demo] [chart] [badges]`.

`demo` needs Chromium; it starts `redis-sessions demo`, and drives it. `chart` draws the figures of
benchmarks/results/overhead.json. `badges` says what pyproject.toml says.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SIZE = (960, 560)
LARGEST = 1_500_000  # bytes
BAR, GAP, LEFT, WIDE = 20, 6, 200, 420  # of the chart
PEERS = {
    "ours": "redis-sessions",
    "cookie": "Starlette's cookie",
    "alcazaba": "fastapi-alcazaba",
    "fastapi-redis-sdk": "fastapi-redis-sdk",
    "starsessions": "starsessions",
}


class Film:
    """Frames of a page, and how many milliseconds each is shown."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def shoot(self, milliseconds: int) -> None:
        """Add the page as it is."""
        image = Image.open(io.BytesIO(self.page.screenshot()))
        self.frames.append(image.convert("RGB"))
        self.times.append(milliseconds)

    def click(self, control: Locator) -> None:
        """Show where it will be clicked, and click."""
        control.focus()
        control.evaluate("one => one.style.outline = '4px solid #e8a33d'")
        self.shoot(900)
        control.click()

    def save(self, path: Path) -> None:
        """Write an animated WebP. It fails if that is too large."""
        first, *others = self.frames
        options: dict[str, Any] = {"duration": self.times, "loop": 0, "quality": 70, "method": 6}
        first.save(path, save_all=True, append_images=others, **options)
        assert path.stat().st_size <= LARGEST, path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def film(url: str) -> None:
    """A phone is signed out from the laptop, and says so by itself."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        agent = (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/142.0.0.0 Safari/537.36"
        )
        page = browser.new_page(
            viewport={"width": SIZE[0], "height": SIZE[1]}, user_agent=agent, bypass_csp=True
        )
        page.goto(url)
        laptop, phone = (page.frame_locator(f".{name} iframe") for name in ("laptop", "phone"))
        film = Film(page)
        film.shoot(1200)
        for count, window in enumerate((laptop, phone), 1):
            film.click(window.get_by_role("button", name="Sign in"))
            expect(window.locator("#principal")).to_have_text("Ada")
            expect(laptop.locator(".devices li")).to_have_count(count)
            film.shoot(1300)
        film.click(laptop.locator(".devices li", has_text="Mobile Safari").get_by_role("button"))
        expect(phone.locator("#signed-out")).to_be_visible()
        expect(laptop.locator(".devices li")).to_have_count(1)
        film.shoot(3500)
        film.save(IMAGES / "demo.webp")
        browser.close()


def demo() -> None:
    """Start the demo, and film it."""
    command = [sys.executable, "-m", "redis_sessions.cli", "demo", "--port", "0", "--no-browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address is not None
            film(address[0])
        finally:
            process.terminate()


def chart() -> None:
    """Draw how much CPU a request's session takes, with each library."""
    figures = json.loads((ROOT / "benchmarks" / "results" / "overhead.json").read_text())
    date = figures["environment"]["date"]
    rows = {(r["operation"], r["peer"]): r for r in figures["overhead"] if r["lanes"] == 64}

    def cost(operation: str, peer: str) -> float:
        row = rows[operation, peer]
        return min(row["cpu"]) - min(row["bare_cpu"])  # without the application itself

    groups = [
        ("a request that reads", "read"),
        ("a request that changes something", "change"),
        ("a sign-in", "sign-in"),
    ]
    most = max(cost(operation, peer) for _, operation in groups for peer in PEERS)
    parts, y = list[str](), 50
    for title, operation in groups:
        parts.append(f'<text x="12" y="{y + 14}" class="group">{escape(title)}</text>')
        y += BAR + GAP
        for peer, name in PEERS.items():
            value = cost(operation, peer)
            width = max(2, round(value / most * WIDE))
            kind = "ours" if peer == "ours" else "other"
            parts += [
                f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" class="{kind}"/>',
                f'<text x="{LEFT + width + 8}" y="{y + 15}">{value:.0f} µs</text>',
            ]
            y += BAR + GAP
        y += 12
    title = f"CPU time for a request's session, 64 requests in flight ({date})"
    svg = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" role="img" \
aria-label="{escape(title)}">
<style>
  text {{ font: 14px system-ui, sans-serif; fill: #1d1b1a; }}
  .group, .title {{ font-weight: 600; }}
  .ours {{ fill: #a4231c; }} .other {{ fill: #b5aca7; }}
</style>
<rect width="720" height="{y}" fill="#fff"/>
<text x="12" y="28" class="title">{escape(title)}</text>
{chr(10).join(parts)}
</svg>
"""
    path = IMAGES / "benchmarks.svg"
    path.write_text(svg)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def badges() -> None:
    """Draw two rows of badges, which a phone shows legibly. None of them asks another site."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    shown = {
        "Python": " | ".join(pythons),
        "Redis": "6.2 and later",
        "Valkey": "7.2 and later",
        "types": "mypy and pyright, strict",
        "license": project["license"],
    }
    parts, x, y, width = list[str](), 0, 0, 0
    for name, value in shown.items():
        if name == "types":
            x, y = 0, 26
        left, right = (round(len(text) * 6.6) + 14 for text in (name, value))
        parts += [
            f'<rect x="{x}" y="{y}" width="{left + right}" height="20" rx="3" class="value"/>',
            f'<path d="M{x + left} {y}H{x + 3}a3 3 0 0 0-3 3v14a3 3 0 0 0 3 3H{x + left}z"/>',
            f'<text x="{x + left / 2}" y="{y + 14}">{escape(name)}</text>',
            f'<text x="{x + left + right / 2}" y="{y + 14}">{escape(value)}</text>',
        ]
        x += left + right + 6
        width = max(width, x - 6)
    said = ", ".join(" ".join(each) for each in shown.items())
    svg = f"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 20}" \
viewBox="0 0 {width} {y + 20}" role="img" aria-label="{escape(said)}">
<style>
  text {{ font: 11px Verdana, "DejaVu Sans", sans-serif; fill: #fff; text-anchor: middle; }}
  path {{ fill: #4a4441; }} .value {{ fill: #0b6e4f; }}
</style>
{chr(10).join(parts)}
</svg>
"""
    path = IMAGES / "badges.svg"
    path.write_text(svg)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    for name in sys.argv[1:] or ["demo", "chart", "badges"]:
        {"demo": demo, "chart": chart, "badges": badges}[name]()

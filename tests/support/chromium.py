"""Chromium, as tests start it."""

from __future__ import annotations

ARGUMENTS = [
    "--no-sandbox",  # root, in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

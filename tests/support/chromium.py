"""Chromium, as tests start it."""

from __future__ import annotations

from playwright.sync_api import expect

expect.set_options(timeout=20_000)  # in ms; a busy machine's pages take more than 5 s

ARGUMENTS = [
    "--no-sandbox",  # root, in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

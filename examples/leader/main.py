"""A job that one process of all runs, and a table that refuses what comes too late."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from redis_sessions import LeadershipLostError
from redis_sessions.leader import Leader, Term

leader = Leader(os.environ.get("REDIS_URL", "embedded://"), lease=2)
WHO = os.getpid()


def database() -> sqlite3.Connection:
    found = sqlite3.connect(os.environ.get("DATABASE", "reports.sqlite3"), timeout=10)
    found.executescript(
        """
        CREATE TABLE IF NOT EXISTS report (
            name TEXT PRIMARY KEY, runs INTEGER, writer INTEGER, fence INTEGER NOT NULL
        );
        INSERT OR IGNORE INTO report VALUES ('nightly', 0, 0, 0);
        """
    )
    return found


def write(term: Term) -> None:
    """Count a run, unless a later leader has written. It runs in a thread."""
    term.check()
    connection = database()
    with connection:
        written = connection.execute(
            "UPDATE report SET runs = runs + 1, writer = ?, fence = ?"
            " WHERE name = 'nightly' AND fence <= ?",
            (WHO, term.token, term.token),
        )
    connection.close()
    if written.rowcount == 0:
        raise LeadershipLostError("a later leader has written")


@leader.every("1s", name="nightly")
async def nightly(term: Term) -> None:
    await asyncio.to_thread(write, term)
    print(f"{WHO} wrote the report, with token {term.token}", flush=True)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with leader.running():
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
def report() -> dict[str, Any]:
    connection = database()
    row = connection.execute("SELECT runs, writer, fence FROM report").fetchone()
    connection.close()
    return {"asked": WHO, **dict(zip(("runs", "written_by", "fence"), row, strict=True))}

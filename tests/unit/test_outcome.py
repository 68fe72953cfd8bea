"""Every row of the table: what a response owes the session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from redis_sessions import Session
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.pending import PendingCommit, is_unchanged, pending_commit
from redis_sessions.session.outcome import Facts, Outcome, decide
from redis_sessions.session.state import Status
from tests.unit.setting import DUE, Setting

OPEN: Final = Facts(status=Status.LIVE, http_status=200)
NEW: Final = Facts(status=Status.NEW, http_status=200)
A: Final = replace(OPEN, was="A", now="A")

SUPERSEDED: Final = (Status.SUPERSEDED, Status.ROTATED)

ANY: Final = (200, 302, 399, 400, 401, 404, 499, 500, 503)
BELOW_400: Final = tuple(s for s in ANY if s < 400)
BELOW_500: Final = tuple(s for s in ANY if s < 500)

# facts, the outcome, the statuses at which it is that, and what it is otherwise
ROWS: Final = [
    ("nothing", OPEN, Outcome.NOTHING, ANY, None),
    ("nothing, signed in", A, Outcome.NOTHING, ANY, None),
    ("nothing, nobody", NEW, Outcome.NOTHING, ANY, None),
    ("loss", replace(A, now=None, changed=True), Outcome.LOSE, ANY, None),
    ("gain", replace(OPEN, now="B", changed=True), Outcome.GAIN, BELOW_400, Outcome.NOTHING),
    (
        "gain, first visit",
        replace(NEW, now="B", changed=True),
        Outcome.GAIN,
        BELOW_400,
        Outcome.NOTHING,
    ),
    (
        "gain over another owner's data",
        replace(OPEN, now="B", owned=False, changed=True),
        Outcome.SWITCH,
        BELOW_400,
        Outcome.NOTHING,
    ),
    ("switch", replace(A, now="B", changed=True), Outcome.SWITCH, BELOW_400, Outcome.NOTHING),
    (
        "authenticated",
        replace(A, authenticates=True),
        Outcome.REAUTHENTICATE,
        BELOW_400,
        Outcome.NOTHING,
    ),
    (
        "authenticated, and data",
        replace(A, authenticates=True, changed=True),
        Outcome.REAUTHENTICATE,
        BELOW_400,
        None,
    ),
    (
        "authenticated with nobody signed in",
        replace(OPEN, authenticates=True),
        Outcome.ROTATE,
        BELOW_500,
        Outcome.NOTHING,
    ),
    ("rotate", replace(A, rotates=True), Outcome.ROTATE, BELOW_500, Outcome.NOTHING),
    ("change", replace(A, changed=True), Outcome.CHANGE, BELOW_500, Outcome.NOTHING),
    ("change, nobody", replace(OPEN, changed=True), Outcome.CHANGE, BELOW_500, Outcome.NOTHING),
    ("first change", replace(NEW, changed=True), Outcome.CREATE, BELOW_500, Outcome.NOTHING),
    ("touch", replace(A, touch_due=True), Outcome.TOUCH, ANY, None),
    (
        "touch, and data",
        replace(A, touch_due=True, changed=True),
        Outcome.CHANGE,
        BELOW_500,
        Outcome.TOUCH,
    ),
    (
        "a gain stores nothing else",
        replace(A, now="B", touch_due=True),
        Outcome.SWITCH,
        BELOW_400,
        Outcome.NOTHING,
    ),
]


@pytest.mark.parametrize("status", ANY)
@pytest.mark.parametrize(
    ("facts", "outcome", "statuses", "otherwise"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_row(
    facts: Facts,
    outcome: Outcome,
    statuses: tuple[int, ...],
    otherwise: Outcome | None,
    status: int,
) -> None:
    """Each row applies at its statuses, and is passed over at the others."""
    decision = decide(replace(facts, http_status=status))
    if status in statuses:
        assert decision == outcome
    elif otherwise is not None:
        assert decision == otherwise
    else:
        # authenticated() at 4xx is passed over; the data that changed are not
        assert decision == Outcome.CHANGE if status < 500 else Outcome.NOTHING


@pytest.mark.parametrize("status", ANY)
@pytest.mark.parametrize("found", [Status.LIVE, Status.NEW, Status.STALE])
def test_clear(found: Status, status: int) -> None:
    """clear() ends the session at any status."""
    facts = Facts(status=found, http_status=status, cleared=True, was="A")
    assert decide(facts) == Outcome.NOTHING


def test_clear_and_more() -> None:
    """What was written after clear() is judged as a new session."""
    facts = replace(A, cleared=True, changed=True, now=None)
    assert decide(facts) == Outcome.CREATE
    assert decide(replace(facts, now="A")) == Outcome.GAIN
    assert decide(replace(facts, now="B", owned=False)) == Outcome.GAIN
    assert decide(replace(facts, now="B", http_status=400)) == Outcome.NOTHING
    assert (
        decide(replace(facts, rotates=True, authenticates=True, changed=False)) == Outcome.NOTHING
    )


@pytest.mark.parametrize("found", SUPERSEDED)
def test_superseded(found: Status) -> None:
    """A superseded token may sign in; what else it writes is dropped."""
    facts = Facts(status=found, http_status=200, changed=True)
    assert decide(facts) is Outcome.DROP
    assert decide(replace(facts, now="A")) is Outcome.GAIN
    assert decide(replace(facts, changed=False)) is Outcome.NOTHING
    assert decide(replace(facts, cleared=True)) == Outcome.DROP
    assert decide(replace(facts, cleared=True, changed=False)) == Outcome.NOTHING


def test_stale() -> None:
    """A token that names no live session is like none: a new id is drawn."""
    assert decide(Facts(status=Status.STALE, http_status=200, changed=True)) is Outcome.CREATE


def test_cross_site() -> None:
    """A cross-site unsafe request begins no anonymous session, but may sign in."""
    facts = replace(NEW, changed=True, may_create=False)
    assert decide(facts) is Outcome.DROP
    assert decide(replace(facts, now="A")) is Outcome.GAIN
    assert decide(replace(A, changed=True, may_create=False)) is Outcome.CHANGE


def test_unavailable() -> None:
    """While the store is away an empty session may be read, not written."""
    away = Facts(status=Status.UNAVAILABLE, http_status=200)
    assert decide(away) is Outcome.NOTHING
    for wanted in (
        replace(away, changed=True),
        replace(away, now="A", changed=True),
        replace(away, cleared=True),
    ):
        assert decide(wanted) is Outcome.REFUSE
    assert decide(replace(away, changed=True, http_status=500)) is Outcome.NOTHING


PRINCIPALS: Final = st.sampled_from([None, "A", "B"])


@given(
    facts=st.builds(
        Facts,
        status=st.sampled_from(Status),
        http_status=st.sampled_from(ANY),
        was=PRINCIPALS,
        now=PRINCIPALS,
        owned=st.booleans(),
        cleared=st.booleans(),
        changed=st.booleans(),
        rotates=st.booleans(),
        authenticates=st.booleans(),
        touch_due=st.booleans(),
        may_create=st.booleans(),
    )
)
def test_always(facts: Facts) -> None:
    """Whatever the facts: errors sign nobody in, and an id keeps its principal."""
    outcome = decide(facts)
    signs_in = outcome in (Outcome.GAIN, Outcome.SWITCH, Outcome.REAUTHENTICATE)
    assert not (signs_in and facts.http_status >= 400)
    in_place = outcome in (Outcome.CHANGE, Outcome.ROTATE, Outcome.REAUTHENTICATE, Outcome.TOUCH)
    proves = outcome is Outcome.REAUTHENTICATE and facts.status is Status.GONE
    assert not in_place or (facts.was == facts.now and (facts.status is Status.LIVE or proves))
    if outcome is Outcome.GAIN and not facts.cleared:
        assert facts.was is None
        assert facts.owned
    if outcome is Outcome.CREATE:
        assert facts.status not in SUPERSEDED


ACTS: Final[dict[str, Callable[[Session], object]]] = {
    "read": lambda session: session.get("n"),
    "same": lambda session: session.update(n=session.get("n", 0)),
    "set": lambda session: session.update(n=1),
    "put back": lambda session: session.update(n=0),
    "remove": lambda session: session.pop("n", None),
    "sign in": lambda session: session.sign_in("A"),
    "sign out": Session.sign_out,
    "clear": Session.clear,
    "rotate": Session.rotate,
    "expire": lambda session: session.expire_in(60),
    "modified": Session.mark_modified,
}


@given(
    stored=st.booleans(),
    acts=st.lists(st.sampled_from(sorted(ACTS)), max_size=4),
    due=st.booleans(),
    status=st.sampled_from(ANY),
)
def test_the_first_row_is_what_the_table_says(
    stored: bool, acts: list[str], due: bool, status: int
) -> None:
    """What counts as unchanged, without gathering facts, is NOTHING by the facts as well."""

    async def judge() -> tuple[bool, PendingCommit]:
        at = Setting()
        session = await at.load(await at.begin({"n": 0}) if stored else None)
        for act in acts:
            ACTS[act](session)
        if due:
            at.clock.advance(DUE)
        backend = backend_of(at.manager)
        return is_unchanged(backend, session), pending_commit(backend, session, status, True)

    unchanged, pending = asyncio.run(judge())
    if unchanged:
        assert (pending.outcome, pending.facts.cleared) == (Outcome.NOTHING, False)

"""What must hold after each step and at the end: I1 to I12, and what a user would miss.

`kept sign-in`: a sign-in whose answer arrived last is signed in; `needless loss`: a session ended,
or a write was dropped, though nothing asked for it. Where a failover took a write back, I2 gives
way to I8: the next touch that is due ends the session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from redis_sessions.session.state import Status
from redis_sessions.session.token import SessionToken
from tests.explorer.actors import ADMIN, BY_METHOD, CHANGES, SIGNS_IN, Actor, Phase
from tests.explorer.backends import Seats
from tests.explorer.index_invariants import all_ended, ended_rightly, index_is_sound
from tests.explorer.scenario import LOST_RECORD, SIGNED_IN, Action, Rec
from tests.explorer.world import World

__all__ = ["Before", "after_step", "at_the_end"]

FAILOVERS: Final = {*LOST_RECORD, "failover index"}
UNKNOWN: Final = {"away", "applied, away", "lost"}
HARMLESS: Final = frozenset(
    {"read", "touch", "a", "b", "a+due", "rotate", "inA", "reA", "inA/400", "inB/400", "reA/400"}
    | {"a/500", "rotate/500"}
)
ENDERS: Final = ("out", "clear", "inA", "inB", "resetA", "keepre", "resetS")


@dataclass(frozen=True)
class Before:
    """What a step is compared with."""

    records: Mapping[str, Rec]
    jars: Mapping[str, SessionToken | None]
    seats: Mapping[str, Seats]
    phases: tuple[Phase, ...]
    codes: tuple[int, ...]

    @classmethod
    def of(cls, world: World) -> Before:
        phases, codes = zip(*((a.phase, a.code) for a in world.actors), strict=True)
        return cls(world.live(), dict(world.jars), dict(world.seats), phases, codes)


def after_step(world: World, before: Before, action: Action) -> Iterator[str]:
    """What this step broke."""
    actor = world.actors[action.who - 1] if action.who else None
    live = world.live()
    yield from _sessions(world, live)
    if actor is None:
        return
    if action.what in ("op", "lost", "applied, away"):
        for id, record in live.items():
            if before.records.get(id) != record:
                yield from _written(actor, id, before.records.get(id), record, world)
        yield from ended_rightly(world, actor, before.records, before.seats)
        yield from index_is_sound(world, before.seats)
    phase = before.phases[actor.number - 1]
    if phase is Phase.RUNNING and actor.phase in (Phase.SENT, Phase.DONE):
        yield from _answered(world, actor, live)
        yield from all_ended(world, actor, failed=bool(world.used & FAILOVERS))
    elif phase is Phase.SENT and actor.phase is Phase.DONE:
        yield from _arrived(world, actor, before.jars.get(actor.browser))


def _sessions(world: World, live: Mapping[str, Rec]) -> Iterator[str]:
    failed = world.used & (FAILOVERS - {"failover repeated"}) or world.scenario.start == "Alost"
    for actor in world.actors:
        old, new = actor.token, actor.cookie
        rotated = old is not None and isinstance(new, SessionToken) and new.id == old.id
        if rotated and new != old and not failed and world.opened_by(old) is not None:
            yield "I2 a token opens after the rotation that replaced it was answered"
    for id, record in live.items():
        known = record.token in world.sent
        if known and not failed and world.over(id):
            yield "I2 a session opens after its end was answered"
        owners = {value[0] for value in record.data.values()}
        if record.principal and not owners <= {"-", record.principal}:
            yield "I6 what one stored is in another's session"
        lost = "failover index" in world.used or world.scenario.start == "Alost"
        if record.principal and known and not lost:
            seats = world.seats[record.principal]
            if not seats.knows(id, record.auth):
                yield "I7 a session is missing from its principal's index"
            # (a record of before another sign-in isn't in its alias' index until its touch)
            knows = (world.seats[name].knows(id, at) for name, at in record.aliases.items())
            if not world.used & {*LOST_RECORD} and not all(knows):
                yield "I7 a session is missing from its alias' index"


def _written(actor: Actor, id: str, old: Rec | None, new: Rec, world: World) -> Iterator[str]:
    if old is None:
        if id not in actor.drawn:
            yield "I2/I3 a session came to be under an id that this request didn't draw"
    else:
        changed = {k for k, v in {*old.data.items()} ^ {*new.data.items()} if k or v}
        if not changed <= CHANGES.get(actor.kind, frozenset()) and id not in actor.drawn:
            yield f"I4 overwritten unseen by {actor.spec}"
        if old.principal != new.principal:
            yield "I3 an id passed to another principal"
    gained = new.principal and new.principal != (old.principal if old else None)
    if gained and actor.status >= 400:
        yield "I9 an error signed somebody in"


def _answered(world: World, actor: Actor, live: Mapping[str, Rec]) -> Iterator[str]:
    kind, cookie, failed = actor.kind, actor.cookie, world.used & FAILOVERS
    clears = kind.startswith("clear") and actor.found is Status.ROTATED
    told_again = actor.superseded or actor.dropped
    if cookie and told_again and kind not in SIGNS_IN and not clears:
        yield "I5 a superseded request sends a cookie"
    ended_it = actor.token is not None and actor.token.id in actor.ended
    if cookie == "expire" and not failed and not (ended_it or clears):
        yield "I5 a cookie is expired by a request that ended nothing"
    others = {a.kind for a in world.actors if a is not actor}
    revoking = ADMIN | {"resetA", "keepre", "resetS"}
    if actor.code == 503 and kind in SIGNS_IN and not world.used and not others & revoking:
        yield "needless loss: a sign-in is refused"
    if actor.code >= 500 and actor.status < 500 and not world.used and kind not in SIGNS_IN:
        yield f"needless loss: {actor.spec} is refused"
    if kind == "reA" and actor.code == 200 and actor.dropped and not cookie:
        yield "needless loss: a sign-in is answered and dropped"
    if kind in BY_METHOD and actor.code < 400 and not isinstance(cookie, SessionToken):
        yield "I3 a sign_in() gives no new token"
    stored = any(e.name in ("created", "merged") for e in actor.events)
    if kind in ("a", "b", "a+due", "clear+a") and actor.code < 400:
        mark = f"/{actor.number}"
        stored = stored or any(v.endswith(mark) for r in live.values() for v in r.data.values())
        stored = stored or actor.wrote  # and was overwritten or ended: `_written` looks at that
        if not (stored or actor.dropped):
            yield "I4 a change is neither stored nor reported"
    yield from _moved(world, actor, live)
    told = kind in ("out", "outx", "clear", "clear+a") and actor.dropped and actor.token
    if told and ended_it and not actor.over_when_loaded and not failed:
        yield "needless loss: a request takes its own end for another's"
    record = world.opened_by(actor.token)
    if actor.due and record and record.principal and actor.code < 500 and not world.used & UNKNOWN:
        id = record.token.id
        lost = "failover index" in world.used or world.scenario.start == "Alost"
        if actor.over_when_loaded and not lost and world.over(id):
            yield "I8 an ended session survives its touch"
        seats = world.seats[record.principal]
        # (it may have been marked since; then the next touch ends it)
        known = seats.knows(id, record.auth)
        if actor.index_lost_when_loaded and not known and not failed:
            yield "I7 a touch doesn't heal the index"


def _moved(world: World, actor: Actor, live: Mapping[str, Rec]) -> Iterator[str]:
    """What others had changed goes on under the new id."""
    cookie = actor.cookie
    moves = actor.kind in ("inA", "inB", "out") and actor.code < 400
    if not (moves and isinstance(cookie, SessionToken)) or world.used & FAILOVERS:
        return
    new = live.get(cookie.id)
    for id, by, old in world.ended:
        if by is not actor or new is None or old.token != actor.token or id == cookie.id:
            continue
        inherits = old.principal is None and old.owner in (None, new.principal)
        leaves = old.principal is not None and actor.kind == "out"
        if (inherits or leaves) and not {*old.data.items()} <= {*new.data.items()}:
            yield "I4 a change is not in what goes on under the new id"


def _arrived(world: World, actor: Actor, old: SessionToken | None) -> Iterator[str]:
    """Only crossing answers replace a newer cookie; a late change never does."""
    token = actor.token
    if token is None or old in (None, token) or world.opened_by(old) is None:
        return
    if world.used & {"30 s", *LOST_RECORD, "expire", *UNKNOWN}:
        return
    harmless = ADMIN | {"touch", "a+due"}
    replaced = any(id == token.id and by and by.kind not in harmless for id, by, _ in world.ended)
    if replaced and actor.kind in ("a", "b", "a+due"):
        yield "I5 a late change replaces a newer cookie"


def at_the_end(world: World, logged: str = "") -> Iterator[str]:
    """What holds when every answer has arrived."""
    own = [actor for actor in world.actors if not actor.browser]  # of the browser looked at
    kinds, specs = [a.kind for a in own], {a.spec for a in own}
    used, start, live = world.used, world.scenario.start, world.live()
    taken = bool(used & {*LOST_RECORD, "expire"})
    index_lost = "failover index" in world.used or start == "Alost"
    jar, id = world.opened_by(world.jar), world.jar.id if world.jar else ""
    by = {a.kind for i, a, _ in world.ended if i == id and a is not None}
    revoked = any(fact.principal or fact.alias for a in world.actors for fact in a.facts)
    cut_off = bool(used & {"crash", "30 s", "away", "applied, away"})
    for actor in world.actors:
        token = actor.token
        asked_out = actor.spec == "out/500" and actor.was is not None and actor.code == 500
        if asked_out and token is not None and token.id in live and not taken:
            yield "I9 a sign-out doesn't hold because of its response"
    marked = any(id in seats.ended for seats in world.seats.values())
    if world.last is not None and not taken and not index_lost:
        target = SIGNS_IN.get(world.last.kind)
        asked = marked or {k for k in by if k in ADMIN or k.startswith(ENDERS)}
        begun = any(i == id and world.asked(id, old) for i, _, old in world.ended)
        rotated = cut_off and id in live
        wanted = target is not None and isinstance(world.last.cookie, SessionToken)
        if wanted and (jar is None or jar.principal != target) and not (asked or begun or rotated):
            yield "kept sign-in: the last one is not signed in"
        if wanted and jar and marked and not world.over(id) and not cut_off and not revoked:
            yield "kept sign-in: the last one will end at its next touch"
    if id and jar is None and id not in live and not taken and not index_lost and not cut_off:
        touched = by and by <= {"touch", "a+due", "reA", "read", "a", "b", "rotate", "empty"}
        if touched and not any(a.facts for a in world.actors):
            yield "needless loss: the browser's session is deleted, and nothing ended it"
    alone = bool(own) and all(SIGNS_IN.get(k) == "A" and not k.startswith("clear") for k in kinds)
    both = alone and specs <= {"inA", "reA"} and not used
    if both and (jar is None or jar.principal != "A"):
        yield "kept sign-in: sign-ins at once leave the browser signed out"
    others_keep = any(a.browser and a.begun for a in world.actors)
    quiet = (
        not taken
        and not used & {"crash", "30 s"}
        and not (used & UNKNOWN and {"rotate", "reA", "inS", "inT"} & set(kinds))
    )
    signed_in = jar is not None and jar.principal == "A"
    quiet = quiet and not others_keep
    harmless = HARMLESS | {"inS", "inT" if "inT" in kinds else "byT"}
    if start in SIGNED_IN and specs <= harmless and quiet and not signed_in:
        yield "I10 signed out by nobody's wish"
    keeps = set[str]() if others_keep else {"keep", "keepre"} & set(kinds)
    if keeps and set(kinds) <= HARMLESS - {"rotate"} | keeps and not taken and "crash" not in used:
        first = world.first.id if world.first else ""
        by_floor = index_lost and world.marked[world.backend.marks :]
        if start not in ("none", "anon", "outA") and first not in live and not by_floor:
            yield "I8 the session to keep has ended"
    if len(kinds) == 1 and not used and kinds[0] in SIGNS_IN and specs == set(kinds):
        alone_in = kinds[0] != "keepre" or start not in ("none", "anon", "outA")
        if alone_in and (jar is None or jar.principal != SIGNS_IN[kinds[0]]):
            yield "kept sign-in: a lone one is not signed in"
    yield from _silence(world, logged)


def _silence(world: World, logged: str) -> Iterator[str]:
    """I12: no token or data in an event or in the log."""
    said = " ".join(str(event) for actor in world.actors for event in actor.events) + logged
    secrets = [token.value[20:] for tokens in world.tokens.values() for token in tokens]
    if "datum/" in said or any(secret in said for secret in secrets):
        yield "I12 an event or the log tells a token or data"

"""What must hold of indexes: `revoke_all` in its steps, marks that are bounded, times of entries.

S2, S3: `revoke_all` ends what was there at its first step, and nobody who signed in later, and so
does `revoke_by`. S4: this one ends nobody who never had the alias. F1, F2: a touch ends a session
for a reason. F3, F4: marks are bounded, and times go forward. F5: after a failover to a server
whose clock is behind, one sign-in is refused at most. F6: a touch ends a session that a replaced
token opens. (F5 and F6 are in `audit`, and so is I8, that nothing
of before a first step survives its touch.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from redis_sessions.session.record import rotated_at
from redis_sessions.session.token import SessionToken
from tests.explorer.actors import SIGNS_IN, Actor, Fact
from tests.explorer.backends import Seats
from tests.explorer.observation import Sight
from tests.explorer.scenario import BEHIND, LOST_RECORD, Rec

__all__ = [
    "all_ended",
    "ended_rightly",
    "index_is_sound",
    "older_than_their_entries",
    "replaced_tokens",
]

TOUCHES: Final = frozenset({"touch", "a+due", "reA", "keepre", "inS", "inT"})
LOST_INDEX: Final = frozenset({"failover index", "behind"})
DEADLINE: Final = 30_000


def ended_rightly(
    world: Sight, actor: Actor, records: Mapping[str, Rec], seats: Mapping[str, Seats]
) -> Iterator[str]:
    """Whether what this step ended had to end. `records`, `seats`: what was there before it."""
    live = world.live()
    for id, old in records.items():
        if id in live:
            continue
        own = actor.token is not None and actor.token.id == id
        fact = actor.begun[-1] if actor.begun else None
        since = fact is not None and _since(old, fact) > fact.revoked
        if since and not own and not world.used & LOST_INDEX:
            yield "S2 revoke_all ends a session that signed in after its first step"
        if fact is not None and fact.alias and not own and (id, fact.alias) not in world.named:
            yield "S4 revoke_by ends a session that never had this alias"
        switches = SIGNS_IN.get(actor.kind, old.principal) != old.principal
        touches = own and actor.kind in TOUCHES and not switches
        if touches and old.principal and not world.asked(id, old):
            yield from _touched(world, old, seats[old.principal].live.get(old.token.id))


def _since(old: Rec, fact: Fact) -> int:
    """When it signed in, as far as this revocation is concerned."""
    return old.auth if fact.alias is None else old.aliases.get(fact.alias, 0)


def _touched(world: Sight, old: Rec, entry: int | None) -> Iterator[str]:
    """A touch ended it, and nobody else had begun to."""
    used = world.used
    newest = world.seats[old.principal or ""].rotated.get(old.token.id, 0)
    if entry is not None and (entry > old.auth or newest > rotated_at(old.version)):
        if not used & {*LOST_RECORD}:
            yield "F1 a session ends as older than its entry, though nothing was lost"
    elif entry is not None:
        if not used & {*LOST_RECORD, "failover index"}:
            yield "F1 a session ends though its entry is there"
    else:
        lost = "failover index" in used or world.scenario.start == "Alost"
        if not lost or len(world.marked) <= world.backend.marks:
            yield "F2 a session ends by the floor, though nothing was lost or no mark had to go"


def index_is_sound(world: Sight, before: Mapping[str, Seats]) -> Iterator[str]:
    """What an operation made of the indexes."""
    for principal, seats in world.seats.items():
        if len(seats.ended) > world.backend.marks:
            yield "F3 an index keeps too many marks"
        was = before[principal]
        if any(at < was.live.get(id, at) for id, at in seats.live.items()) or any(
            at < was.rotated.get(id, at) for id, at in seats.rotated.items()
        ):
            yield "F4 an entry's time goes back"
        if seats.revoked < was.revoked or seats.floor < was.floor:
            yield "F4 the time of a revocation, or the floor, goes back"


def all_ended(world: Sight, actor: Actor, *, failed: bool) -> Iterator[str]:
    """What was there at a `revoke_all`'s first step is over once it is answered."""
    live = world.live()
    left = [live[id] for id in actor.there & live.keys()]
    # (a session that has given up its alias meanwhile isn't concerned any more)
    alive = any(
        fact.alias is None or 0 < _since(record, fact) <= fact.revoked
        for record in left
        for fact in actor.begun
    )
    if actor.code < 400 and not failed and alive:
        yield "S3 what was there at its first step is alive once revoke_all is answered"


def older_than_their_entries(world: Sight) -> set[str]:
    """The records that an index knows a later sign-in or rotation of, though not of just now."""
    clock = (world.backend.clock() - BEHIND * ("behind" in world.used)) * 1000

    def outdated(id: str, record: Rec) -> bool:
        if not record.principal:
            return False
        seats = world.seats[record.principal]
        entry, rotated = seats.live.get(id, 0), seats.rotated.get(id, 0)
        later = [entry] if record.auth < entry else []
        later += [rotated * 1000] if rotated_at(record.version) < rotated else []
        return any(abs(clock - at) >= DEADLINE for at in later)

    return {id for id, record in world.live().items() if outdated(id, record)}


def replaced_tokens(world: Sight) -> set[str]:
    """The records that open by a token that was replaced, as answers said, and a while ago.

    If two rotations have replaced one token, since a failover took one of them back, this concerns
    the tokens of both.
    """
    by_old = dict[SessionToken, list[tuple[float, SessionToken]]]()
    for actor in world.actors:
        old, new = actor.token, actor.cookie
        if isinstance(new, SessionToken) and old is not None and old.id == new.id:
            by_old.setdefault(old, []).append((actor.began, new))
    now, dead = world.backend.clock(), set[SessionToken]()
    for old, news in by_old.items():
        begun = [began for began, _ in news]
        if min(begun) <= now - DEADLINE / 1000:
            dead.add(old)
        if max(begun) - min(begun) >= 1:
            dead.update(new for _, new in news)
    found = {id for id, record in world.live().items() if record.principal and record.token in dead}
    return set() if "failover index" in world.used else found

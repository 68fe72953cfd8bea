"""Sessions in plain Python: what they hold, which token opens them, what each response owes."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from tests.properties.state_machine.visits import Data, Found, Owed, Stored, Visit, clear

DAY: Final = 24 * 3600
MAX_AGE: Final = 14 * DAY
IDLE: Final = 7 * DAY
ROTATE_ON: Final = "r"  # the key whose change rotates
CROSSING: Final = 30  # how long a tombstone stands, and a rotated token is known


class SteppingClock:
    """Real time and what was added to it, of which no second passes within a step."""

    def __init__(self) -> None:
        self.added = 0.0
        self.second = 0
        self.tick()

    def tick(self) -> float:
        """Begin a step, well before a second's end; by how much that takes time forward."""
        ahead = 0.25 if (time.time() + self.added) % 1 > 0.75 else 0.0
        self.added += ahead
        self.second = int(time.time() + self.added)
        return ahead

    def __call__(self) -> float:
        return min(time.time() + self.added, self.second + 0.999)


def changes(before: Data, after: Data) -> Data:
    """The top-level keys that were set or (None) removed."""
    keys = before.keys() | after.keys()
    return {key: after.get(key) for key in keys if before.get(key) != after.get(key)}


def differ(one: Data, other: Data) -> bool:
    """Whether they are stored differently: a key that was removed and set again is the last."""
    return one != other or list(one) != list(other)


def apply(data: Data, changed: Data) -> Data:
    merged = {**data, **changed}
    return {key: copy.deepcopy(value) for key, value in merged.items() if value is not None}


class Model:
    """Sessions, by the design's rules; one commit at a time."""

    def __init__(self, clock: SteppingClock) -> None:
        self._clock = clock
        self.sessions: dict[str, Stored] = {}
        self.entered: defaultdict[str, set[str]] = defaultdict(set)
        self.revoked_at: defaultdict[str, int] = defaultdict(lambda: -1)  # a step
        self.named: defaultdict[str, set[str]] = defaultdict(set)  # by an alias
        self.revoked_by: defaultdict[str, int] = defaultdict(lambda: -1)  # a step

    @property
    def now(self) -> int:
        return self._clock.second

    def alive(self, session: Stored) -> bool:
        return not session.dead and self.now < min(session.seen + session.idle, session.expires)

    def opens(self, token: str) -> Stored | None:
        session = self.sessions[token[:20]]
        return session if session.token == token and self.alive(session) else None

    def find(self, token: str | None) -> tuple[Found, Stored | None]:
        if token is None:
            return "nothing", None
        session = self.sessions[token[:20]]
        said = session.grave_says
        if not self.alive(session):
            stands = said is not None and self.now < session.grave_until
            crossing = stands and said is not None and self.now - said <= CROSSING
            return ("superseded" if crossing else "stale"), None
        if session.token != token:
            return ("rotated" if self.now - session.rotated <= CROSSING else "stale"), None
        return "open", session

    def end(self, session: Stored, *, tells: bool = True, mark: bool = False) -> bool:
        """End it; whether that was news."""
        was_alive = self.alive(session)
        session.dead = True
        session.marked = session.marked or mark
        if was_alive or self.now >= session.grave_until:
            session.grave_says = self.now if tells else None
        session.grave_until = self.now + CROSSING
        return was_alive

    def revoke(self, principal: str, id: str, visit: Visit | None = None) -> bool:
        if id not in self.entered[principal]:
            return False
        return self._revoke(id, visit)

    def _revoke(self, id: str, visit: Visit | None, *, mark: bool = True) -> bool:
        own = visit is not None and visit.session is not None and visit.session.id == id
        own = own and visit is not None and not visit.cleared and not visit.lost
        ended = self.end(self.sessions[id], tells=own, mark=mark)
        if own and visit is not None and ended:
            clear(visit)
            visit.ended_here = True
        elif own and visit is not None:
            visit.lost = True
        return ended

    def revoke_all(
        self, principal: str, keep: str | None, step: int, visit: Visit | None = None
    ) -> int:
        self.revoked_at[principal] = step
        if visit is not None:
            visit.revoked.add(principal)
        ids = self.entered[principal] - {keep}
        return sum(self.revoke(principal, id, visit) for id in ids)

    def revoke_by(self, value: str, step: int, visit: Visit | None = None) -> int:
        self.revoked_by[value] = step
        ids = self.named.pop(value, set()) & self.sessions.keys()
        if visit is not None:
            visit.revoked_by.add(value)
            if value in visit.had and visit.session is not None:
                ids.add(visit.session.id)
        return sum(self._revoke(id, visit, mark=False) for id in ids)

    # -- what a response owes the session

    def commit(self, visit: Visit, status: int, learn: Callable[[], str]) -> Owed:
        """Carry out what it did; `learn` gives the token that it got."""
        found, session, base = visit.found, visit.session, visit.base
        owed = Owed()
        if visit.whose not in (None, visit.local.get("user_id")):
            visit.methods, visit.aliases = (), None  # another one has proved that
        if visit.cleared:
            owed.expire = found == "rotated"
            if found == "open" and session is not None:
                signed_in = base.get("user_id") is not None
                tells = visit.status is not None
                owed.expire = visit.ended_here or self.end(session, tells=tells, mark=signed_in)
                found = "nothing" if owed.expire else "superseded"
            if found == "stale":
                found = "nothing"
            session, base = None, Data()
        was, now = base.get("user_id"), visit.local.get("user_id")
        if session is not None and was is not None and now is None:
            self._lose(visit, session, status, owed, learn)
        elif now is not None and now != was:
            if status < 400:
                self._gain(visit, session, owed, learn)
        elif visit.lost and session is not None and not (visit.authenticated and status < 400):
            wants = visit.rotate or visit.authenticated or visit.lifetime is not None
            owed.dropped = (wants or differ(visit.local, base)) and status < 500
        elif session is None:
            if visit.local and status < 500:
                if found in ("nothing", "stale"):
                    owed.token = self._create(visit, visit.local, None, learn)
                else:
                    owed.dropped = True
        else:
            self._stay(visit, session, status, owed, learn)
        if owed.token is not None:
            owed.expire = False
        return owed

    def _lose(
        self, visit: Visit, session: Stored, status: int, owed: Owed, learn: Callable[[], str]
    ) -> None:
        newest = session.data if session.token == visit.token else visit.base
        tells = visit.status is not None  # else the handler failed, and so does the response
        if not self.end(session, tells=tells, mark=True):
            owed.dropped = True
            return
        mine = changes(visit.base, visit.local) if status < 500 else {"user_id": None}
        left = apply(newest, mine)
        if left and not tells:
            owed.dropped = True
        elif left:
            owed.token = self._create(visit, left, session.owner, learn)
        else:
            owed.expire = True

    def _gain(self, visit: Visit, old: Stored | None, owed: Owed, learn: Callable[[], str]) -> None:
        now = visit.local["user_id"]
        switches = old is not None and old.owner not in (None, now)
        was = visit.base.get("user_id") if old is not None else None
        data = visit.local
        if switches or was is not None:
            data = {k: v for k, v in visit.local.items() if k in visit.assigned}
            data["user_id"] = now
            changed = changes(visit.base, visit.local).items()
            owed.dropped = visit.left or any(v is not None and k not in data for k, v in changed)
        owed.token = self._enter(visit, data, now, owed, learn)
        if owed.token is None or old is None or visit.lost:
            return
        if switches or was is not None:
            self.end(old, mark=was is not None)
        elif self.alive(old) and old.token == visit.token:
            mine = changes(visit.base, visit.local)
            theirs = {k: v for k, v in changes(visit.base, old.data).items() if k not in mine}
            owed.token.data = apply(owed.token.data, theirs)
            self.end(old)

    def _stay(
        self, visit: Visit, session: Stored, status: int, owed: Owed, learn: Callable[[], str]
    ) -> None:
        now: str | None = visit.local.get("user_id")
        changed = differ(visit.local, visit.base)
        touch_due = not visit.untouched and self._is_due(visit)
        rotates = visit.rotate or visit.local.get(ROTATE_ON) != visit.base.get(ROTATE_ON)
        if visit.lifetime is not None:
            duration, persistent = visit.lifetime
            longer = self.now + duration > visit.expires
            other = persistent is not None and persistent != visit.persistent
            rotates = rotates or longer or other
            changed = changed or not (longer or other)
        again = visit.authenticated and now is not None and status < 400
        rotates = rotates or (visit.authenticated and now is None)
        stands = self.alive(session) and session.token == visit.token
        if again or (rotates and status < 500):
            if again or visit.lifetime is not None or touch_due:
                lives = not visit.lost and self._ask_index(session, visit)
                stands = lives and stands
                # It is entered before it is known whether the session was rotated meanwhile.
                new = [value for value in visit.aliases or () if value not in visit.had]
                if again and lives and not self._enter_aliases(visit, session.id, new, owed):
                    return
            if stands:
                self._in_place(visit, session, seen=again or touch_due)
            if stands and again:
                session.methods = visit.methods
                if visit.lifetime is None:
                    session.expires = self.now + max(MAX_AGE, session.idle)
                if visit.aliases is not None:
                    for value in session.aliases.keys() - {*visit.aliases}:
                        self.named[value].discard(session.id)
                    times = {**dict.fromkeys(visit.aliases, visit.done), **visit.had}
                    session.aliases = {value: times[value] for value in visit.aliases}
            if stands:
                session.rotated, session.token = self.now, learn()
                owed.token = session
            elif again and now is not None:
                mine = changes(visit.base, visit.local)
                data = {key: value for key, value in mine.items() if value is not None}
                owed.token = self._enter(visit, {**data, "user_id": now}, now, owed, learn)
            else:
                owed.dropped = True
        elif changed and status < 500:
            if touch_due:
                stands = self._ask_index(session, visit) and stands
            owed.dropped = not stands
            if stands:
                self._in_place(visit, session, seen=touch_due)
        elif touch_due:
            stands = self._ask_index(session, visit) and stands
            if stands and (session.version == visit.version or self._is_due(session)):
                session.seen = self.now
                session.version += 1

    def _is_due(self, at: Visit | Stored) -> bool:
        return self.now - at.seen > min(at.idle / 10, 300)

    def _ask_index(self, session: Stored, visit: Visit) -> bool:
        for value, at in visit.had.items():
            if self.revoked_by[value] > at:
                return False  # it has ended, or was rotated and has other aliases
            self.named[value].add(session.id)
        if session.marked:
            self.end(session)
        return not session.marked

    def _in_place(self, visit: Visit, session: Stored, *, seen: bool) -> None:
        session.data = apply(session.data, changes(visit.base, visit.local))
        session.version += 1
        if visit.lifetime is not None:
            self._set_lifetime(session, visit.lifetime)
        if seen or visit.lifetime is not None:
            session.seen = self.now

    def _set_lifetime(self, session: Stored, lifetime: tuple[int, bool | None]) -> None:
        duration, persistent = lifetime
        session.expires = self.now + duration
        session.idle = duration if duration > MAX_AGE else min(IDLE, duration)
        session.persistent = session.persistent if persistent is None else persistent

    def _enter(
        self, visit: Visit, data: Data, principal: str, owed: Owed, learn: Callable[[], str]
    ) -> Stored | None:
        if self.revoked_at[principal] > visit.step and principal not in visit.revoked:
            owed.refused = True
            return None
        same = visit.base.get("user_id") == principal and not visit.cleared
        kept = list(visit.had) if same else []
        values = kept if visit.aliases is None else visit.aliases
        if not self._enter_aliases(visit, "", values, owed):
            return None
        session = self._create(visit, data, principal, learn)
        session.methods, session.aliases = visit.methods, dict.fromkeys(values, visit.done)
        for value in values:
            self.named[value].add(session.id)
        self.entered[principal].add(session.id)
        return session

    def _enter_aliases(self, visit: Visit, id: str, values: Sequence[str], owed: Owed) -> bool:
        for value in values:
            if self.revoked_by[value] > visit.step and value not in visit.revoked_by:
                owed.refused = True
                return False
            self.named[value].add(id)
        return True

    def _create(
        self, visit: Visit, data: Data, owner: str | None, learn: Callable[[], str]
    ) -> Stored:
        token = learn()
        assert token[:20] not in self.sessions, "I3: an id is new"
        session = Stored(
            id=token[:20],
            token=token,
            data=apply({}, data),  # by key: what one request put under two keys is two afterwards
            owner=owner,
            seen=self.now,
            expires=self.now + MAX_AGE,
            idle=IDLE,
            persistent=True,
        )
        if visit.lifetime is not None:
            self._set_lifetime(session, visit.lifetime)
        self.sessions[session.id] = session
        return session

"""Carrying out what one request owes its session."""

from __future__ import annotations

from typing import Any

from redis_sessions.errors import (
    ConfigurationError,
    SessionError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.events import logger
from redis_sessions.lifecycle.revocation import Revoker
from redis_sessions.lifecycle.writer import Writer
from redis_sessions.session import values
from redis_sessions.session.carryover import carried_over, holds_recorded, storable
from redis_sessions.session.outcome import NOTHING, Answer, Decision, Facts, Outcome, decide
from redis_sessions.session.record import Stored
from redis_sessions.session.session import Session
from redis_sessions.session.state import NEVER, Found
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import EMPTY, Changes
from redis_sessions.stores.protocols import Commit, EntryStatus

__all__ = ["Operation"]


class Operation(Writer):
    """One commit of one session. `encoded`: its data as they are now.

    `ends`: its deadline on the loop's clock, if it has begun already.
    """

    def __init__(
        self,
        policy: Revoker,
        session: Session,
        encoded: bytes,
        status: int,
        may_create: bool,
        ends: float | None = None,
    ) -> None:
        super().__init__(policy, session, encoded, ends)
        self._revoker = policy
        self._status = status
        self._goes_along = encoded
        self._owner: bytes | None = None
        self._principal = self._find_principal()
        self._decision = self._decide(may_create)

    @property
    def travels(self) -> bool:
        """Whether the browser's token changes, so that it belongs to a response."""
        outcome = self._decision.outcome
        return self._decision.clears or outcome is Outcome.LOSE or outcome.needs_token

    async def run(self) -> Answer:
        """Carry it out; afterwards the session is like one that was just loaded."""
        state, outcome = self._state, self._decision.outcome
        met = state.wishes()
        if outcome not in (Outcome.NOTHING, Outcome.TOUCH) and self._status < 500:
            self._policy.values.check(self._encoded, state.base)
            self._policy.hint(self._session, self._principal)
        answer = await (self._clear() if self._decision.clears else self._carry_out(outcome))
        state.settled = self._encoded
        wish = state.lifetime
        state.forget_wants(met)
        if state.found in (Found.NOTHING, Found.STALE):
            state.lifetime = wish  # of a session that isn't there yet
        if self._short.error is not None:
            self._admit(outcome, answer)
        return answer

    def _admit(self, outcome: Outcome, answer: Answer) -> None:
        """Too few replicas have it: raised, unless it is told anyway."""
        # A rotated token doesn't open any more, so the browser has to get the new one; and of a
        # sign-in only the anonymous session's end is short. What else is on the primary alone is
        # a 503 with the cookie untouched, so that a sign-out can be asked for again.
        quiet = outcome in (Outcome.TOUCH, Outcome.ROTATE, Outcome.REAUTHENTICATE, Outcome.GAIN)
        if not quiet or self._decision.clears:
            self._short.tell(answer)
        logger.warning("sessions: %s", self._short.error)
        self._policy.report("unavailable", "replication", self._at.token.id)

    # -- deciding

    def _find_principal(self) -> str | None:
        state = self._state
        if self._encoded == state.base and self._status < 500 and not state.cleared:
            return state.principal
        if self._status < 500:
            return self._policy.principal.of(self._encoded)
        try:
            return self._policy.principal.of(self._storable())
        except ConfigurationError:
            return state.principal

    def _decide(self, may_create: bool) -> Decision:
        state, counts = self._state, self._status < 500
        stored = state.live
        rotates = False
        if stored is None:
            changed = self._encoded != EMPTY
        else:
            differs = self._encoded != state.base
            if differs and state.rebased:
                differs = bool(state.changes(self._encoded))
            changed = differs or state.modified
            if state.lifetime is not None:
                expires_at, _, persistent = self._lifetime(stored.record)
                record = stored.record
                rotates = expires_at > record.expires_at or persistent != record.persistent
                changed = changed or not rotates
        away = state.found is Found.UNAVAILABLE
        return decide(
            Facts(
                found=state.found,
                status=self._status,
                was=state.principal,
                now=self._principal,
                owned=not state.is_anothers(self._principal),
                cleared=state.cleared,
                changed=(changed or (away and state.wants())) and counts,
                rotates=rotates or (state.rotate and stored is not None),
                authenticates=state.authenticated and state.stored is not None,
                touch_due=self._policy.touch_due(state),
                may_create=may_create,
            )
        )

    # -- the rows of the table

    async def _clear(self) -> Answer:
        state, outcome = self._state, self._decision.outcome
        # What was put back is still whose it was: it isn't for anybody else, now or later.
        if outcome is Outcome.GAIN and state.is_anothers(self._principal):
            self._goes_along = self._assigned()
        elif outcome is Outcome.CREATE and state.stored is not None:
            theirs = holds_recorded(self._session, state)
            self._owner = state.stored.record.owner if theirs else None
        expire = state.found is Found.ROTATED  # this browser asked to be signed out
        if state.ended_here:  # by a revocation of this request's own
            expire = True
            state.forget()
        elif state.stored is not None:  # rotated since or not, its token was the browser's
            # An id ends first, and is marked second: a mark may have to make room for others,
            # and a session that still lived then would be found by nothing.
            expire = await self._end(state.stored.token.id, "cleared")
            await self._mark(state.stored, state.principal)
            state.forget()
            if not expire and outcome is not Outcome.GAIN:
                # Another request ended it, and its answer decides what the browser holds.
                state.found = Found.SUPERSEDED
                outcome = Outcome.NOTHING if outcome is Outcome.NOTHING else Outcome.DROP
        elif state.ended is not None:
            # Of that end, perhaps asked for again because too few replicas had it, nothing was
            # certain: repeated, it is as good as a first one.
            await self._end(state.ended, "cleared")
        elif state.opened:  # which of them was meant nobody knows, and the client holds each
            for each in state.opened:
                if each.stored is not None:
                    await self._end(each.stored.token.id, "cleared")
                    await self._mark(each.stored, each.principal)
            state.opened, expire = (), True
        answer = await self._carry_out(outcome)
        if answer.token is not None or not expire or state.late:
            return answer
        return Answer(Outcome.CLEAR if outcome is Outcome.NOTHING else outcome, expire=True)

    async def _carry_out(self, outcome: Outcome) -> Answer:
        if outcome.needs_token and self._state.late:
            raise SessionError(
                "the response has started, so the browser can't learn a new token "
                f"({outcome.value}): sign in, rotate or begin a session before it starts"
            )
        match outcome:
            case Outcome.TOUCH:
                return await self._touch()
            case Outcome.CHANGE:
                at = self._at
                if self._policy.touch_due(self._state) and await self._is_over():
                    return self._dropped("revoked", at.token.id)
                if await self._in_place(at.token, at.rotated_at):
                    return Answer(outcome)
                return self._dropped("ended elsewhere", at.token.id)
            case Outcome.CREATE:
                token = SessionToken.generate()
                return await self._create(outcome, self._encoded, token, self._owner)
            case Outcome.ROTATE | Outcome.REAUTHENTICATE:
                return await self._rotate(outcome)
            case Outcome.LOSE:
                return await self._lose()
            case Outcome.GAIN | Outcome.SWITCH:
                return await self._gain(outcome)
            case Outcome.REFUSE:
                why = self._state.why
                raise StoreUnavailableError(f"the session can't be stored: {why}") from why
            case Outcome.DROP:
                anybodys = self._state.found in (Found.NOTHING, Found.STALE)
                return self._dropped("no session begins here" if anybodys else "superseded token")
            case Outcome.NOTHING | Outcome.CLEAR:
                return NOTHING

    async def _touch(self) -> Answer:
        try:
            if await self._is_over():
                return NOTHING
            at = self._at
            record = at.record.amended(seen_at=self._now)
            new = self._policy.sealer.seal(at.token, record, at.rotated_at)
            if await self._store_record(at.version, new) is Commit.STORED:
                self._state.stored = new
                self._state.touch_at = new.touch_at
                self._policy.report("touched", None, at.token.id)
                return Answer(Outcome.TOUCH)
        except StoreError as exc:
            logger.warning("a session's time was not renewed: %s", exc)
        self._state.touch_at = NEVER
        return NOTHING

    async def _rotate(self, outcome: Outcome) -> Answer:
        state, at, again = self._state, self._at, None
        lives, principal = state.live is not None, state.principal
        if lives and outcome is Outcome.REAUTHENTICATE:
            length = state.lifetime[0] if state.lifetime else self._length(at.record)
            lives, clock = await self._ask_index(length)
            own = state.revocations.get(principal or "")
            again = max(
                int(clock - self._policy.index.age(state.began)),
                int(max(own.values()))
                if own
                else 0,  # it excepted this one; what comes next ends it
                at.record.authenticated_at or 0,
            )
        elif lives and (state.lifetime is not None or self._policy.touch_due(state)):
            left = at.record.expires_at - self._now
            lives, _ = await self._ask_index(state.lifetime[0] if state.lifetime else left)
        token = SessionToken.generate(at.token.id)
        rotated = max(self._now, at.rotated_at + 1)  # each differs: a store may go by it
        if lives and await self._in_place(token, rotated, again):
            if principal is not None and again is not None:
                await self._note_authentication(principal, token.id, again)
            self._policy.report("rotated", outcome.name.lower(), token.id)
            return self._told(outcome)
        if outcome is Outcome.ROTATE:
            return self._dropped("ended elsewhere", token.id)
        # It ended, or was rotated, under a principal who has just proved who they are.
        written = self._written()
        if self._policy.principal.of(written) != self._principal:
            written = self._encoded  # a callable's keys aren't known; the data are their own
        return await self._enter(Outcome.GAIN, written)

    async def _note_authentication(self, principal: str, id: str, at: int) -> None:
        """After the record: an entry that is older does no harm, one that is newer would end it."""
        try:
            await self._short.of(self._policy.index.authenticated(principal, id, at))
        except StoreError as exc:
            logger.warning("sessions: an index has an older time than its session: %s", exc)

    async def _gain(self, outcome: Outcome) -> Answer:
        state, old, was = self._state, self._state.stored, self._state.principal
        if old is not None and outcome is Outcome.SWITCH:
            ends, written = state.live is not None or was is not None, self._assigned()
            answer = await self._enter(outcome, written)
            if ends:
                await self._end(old.token.id, "switched")
                await self._mark(old, was)
            return answer
        mine = set(state.changes(self._encoded))
        answer = await self._enter(outcome, self._goes_along)
        if old is not None:
            await self._fold(old, mine)
        return answer

    # -- the index, which is written before the record

    async def _enter(self, outcome: Outcome, data: bytes) -> Answer:
        """A new session of the principal, with these data: entered, then created."""
        policy, state, principal = self._policy, self._state, self._principal or ""
        token = SessionToken.generate()
        self._check_time()
        status, at, size = await policy.index.enter(
            principal,
            token.id,
            began=state.began,
            own=state.revocations.get(principal),
            ttl=(self._lifetime(None)[0] - self._now) * 1000,
            descriptor=self._descriptor(token.id, self._now),
        )
        if status is not EntryStatus.LIVE:
            policy.report("refused", "revoked meanwhile", token.id)
            raise StoreUnavailableError(
                "all sessions of this principal were ended while this sign-in was under way",
                reason="server",
            )
        owner = policy.keyring.primary.owner(principal)
        answer = await self._create(outcome, data, token, owner, at)
        rolling_out = len(policy.keyring.keys) > 1  # the size is of one key's index
        if policy.max_sessions is not None and (rolling_out or size > policy.max_sessions):
            await self._revoker.make_room(principal, token.id)
        return answer

    # -- ending

    async def _fold(self, old: Stored, mine: set[Any]) -> None:
        """End the anonymous session that signed in; what others changed in it moves along.

        `mine`: the keys that this request changed, which is the later.
        """
        while True:
            result = await self._bury(old)
            if result is Commit.STORED:
                self._policy.report("ended", "signed in", old.token.id)
            if result is not Commit.CONFLICT:
                return
            newer = await self._again(old.token)
            if newer is None:
                return  # it was rotated, or ended, meanwhile: left alone
            theirs = values.changes(values.split(old.data), values.split(newer.data))
            theirs = {key: value for key, value in theirs.items() if key not in mine}
            if theirs:
                await self._merge_into_new(theirs)
            old = newer

    async def _merge_into_new(self, theirs: Changes) -> None:
        at = self._at
        data = values.apply(at.data, theirs)
        fits = len(data) <= self._policy.values.max_size
        if not fits or self._policy.principal.of(data) != self._principal:
            self._dropped("no place after the sign-in")
            return
        new = self._policy.sealer.seal(at.token, at.record.amended(data=data), at.rotated_at)
        if await self._store_record(at.version, new) is not Commit.STORED:
            self._dropped("ended elsewhere")
            return
        self._state.remember(new)
        self._adopt(data)
        self._policy.report("merged", None, at.token.id)

    async def _lose(self) -> Answer:
        state, old = self._state, self._at
        last = await self._end_if_unchanged(old, "signed out")
        # Where it was rotated meanwhile, a sign-out holds all the same.
        if last is None and await self._end(old.token.id, "signed out"):
            last = old
        await self._mark(old, state.principal)
        if last is None:
            state.lost()
            return self._dropped("ended elsewhere")
        left = self._left(last.data)
        state.forget()
        if self._status < 500 and not state.late:
            self._adopt(left)
        if left == EMPTY:
            return Answer(Outcome.LOSE, expire=not state.late)
        if state.late:  # the browser can't learn the id under which it would go on
            self._adopt(EMPTY)
            self._dropped("signed out late")
            return Answer(Outcome.LOSE)
        return await self._create(Outcome.LOSE, left, SessionToken.generate(), old.record.owner)

    def _left(self, stored: bytes) -> bytes:
        """What goes on without the principal: from 500 on, only its removal counts."""
        if self._status < 500:
            left = values.apply(stored, self._state.changes(self._encoded))
        else:
            left = values.apply(stored, self._removal())
        return EMPTY if self._policy.principal.of(left) is not None else left

    def _removal(self) -> Changes:
        changed = self._state.changes(self._storable())
        keys = self._policy.principal.keys(changed)
        return {key: value for key, value in changed.items() if key in keys}

    def _storable(self) -> bytes:
        return storable(self._session, self._state.base, self._policy.values)

    def _assigned(self) -> bytes:
        """Only what this request assigned: what else is there belongs to somebody else."""
        state, principal = self._state, self._policy.principal
        data = carried_over(self._session, self._encoded, state, principal.path)
        if principal.of(data) != self._principal:
            raise SessionError(
                "the keys that this request set don't say who signs in: with a callable "
                "principal, set every key that it looks at to a new object, or clear() the "
                "session first"
            )
        changed, kept = state.changes(self._encoded), values.split(data)
        left = any(raw is not None and key not in kept for key, raw in changed.items())
        if left or state.left_changes:
            self._policy.report("dropped", "another's data", self._at.token.id)
        return data

    def _written(self) -> bytes:
        """Only the keys that this request set, and those that say who is signed in."""
        changed, now = self._state.changes(self._encoded), values.split(self._encoded)
        keys = {key for key, value in changed.items() if value is not None}
        keys |= self._policy.principal.keys(changed)
        return values.join({key: value for key, value in now.items() if key in keys})

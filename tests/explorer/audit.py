"""After an execution: touch what is alive, and compare it with the index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from redis_sessions.errors import StoreUnavailableError
from redis_sessions.events import Event
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import NEVER, State
from redis_sessions.stores import Store
from tests.explorer.actors import KEYRING, SIGNS_IN, Worker
from tests.explorer.index_invariants import older_than_their_entries, replaced_tokens
from tests.explorer.scenario import PRINCIPALS, Rec, view
from tests.explorer.world import TICK, World

__all__ = ["Eager", "audit"]


class Eager(Worker):
    """Finds every touch due."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        heard: Callable[[Event], None],
        *,
        keyring: Keyring = KEYRING,
    ) -> None:
        super().__init__(store, clock, heard, keyring=keyring)

        def touch_due(state: State) -> bool:
            return state.live is not None and state.touch_at != NEVER

        backend_of(self).touch_due = touch_due  # type: ignore[method-assign]  # as `Worker` does

    async def load(self, *args: Any, **options: Any) -> Session:
        session = await super().load(*args, **options)
        state_of(session).touch_at = 0
        return session


async def audit(world: World) -> list[str]:
    """What I1, I3, I7, I8, F1, F5 and F6 find wrong in the end."""
    found = list[str]()
    forever = await world.backend.without_ttl(list(world.labels), world.index_keys)
    if forever:
        found.append("I3 a key without TTL")
    store: Store = world.real
    manager = Eager(store, world.backend.clock, lambda _: None)
    # (nothing but its tombstone says that an anonymous session has ended)
    over = {
        id for id, record in world.live().items() if record.principal and world.over(id, begun=True)
    }
    outdated, replaced = older_than_their_entries(world), replaced_tokens(world)
    for record in world.live().values():
        session = await manager.load(record.token.value)
        await manager.commit(session)
    alive = {id: rec async for id, rec in _alive(world)}
    if "failover index" not in world.used and over & alive.keys():
        found.append("I8 a session that was ended survives its touch")
    if outdated & alive.keys():
        found.append("F1 a record older than its entry survives its touch")
    if replaced & alive.keys():
        found.append("F6 a session that a replaced token opens survives its touch")
    sole = world.actors[0] if len(world.actors) == 1 and not world.used else None
    signs_in = sole is not None and sole.spec in SIGNS_IN and sole.was is not None
    kept = world.jar is not None and world.jar.id in alive
    if sole is not None and signs_in and sole.code == 200 and not kept:
        found.append("kept sign-in: it ends at its next touch")
    for principal in PRINCIPALS:
        listed = {info.id for info in await manager.sessions_of(principal)}
        lives = {id for id, record in alive.items() if record.principal == principal}
        if listed != lives:
            found.append(f"I7 sessions_of names {len(listed)} sessions, and {len(lives)} live")
    if "behind" in world.used and not await _signs_in(world):
        found.append("F5 a sign-in is refused again, since the index's clock is behind")
    return found


async def _signs_in(world: World) -> bool:
    """Whether A can sign in: at the second attempt at the latest."""
    worker = Worker(world.real, world.backend.clock, lambda _: None)
    for _ in range(2):
        await world.backend.advance(TICK)
        session = await worker.load(None)
        session["user_id"] = "A"
        await world.backend.advance(TICK)
        try:
            answer = await worker.commit(session)
        except StoreUnavailableError:
            continue
        if answer.token is not None:
            world.labels[answer.token.id] = "late"
            return True
    return False


async def _alive(world: World) -> AsyncIterator[tuple[str, Rec]]:
    for id in world.labels:
        raw = await world.backend.raw(id)
        seen = None if raw is None else view(world.sealer, world.tokens.get(id, ()), raw)
        if isinstance(seen, Rec):
            yield id, seen

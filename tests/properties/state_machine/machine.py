"""The rules by which hypothesis looks for a history in which the library and the model differ."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from redis_sessions import generate_key
from redis_sessions.session.session import state_of
from tests.properties.state_machine.acts import USERS, acts, aliases, statuses, users
from tests.properties.state_machine.driver import BROWSERS, WORKERS, Driver
from tests.properties.state_machine.model import DAY
from tests.properties.state_machine.visits import Act
from tests.support.index_script import index_script, marks_are

MARKS: Final = 2
"""Of ended sessions, in each index: more had to make room, which nobody may notice."""

P = ParamSpec("P")
M = TypeVar("M", bound="Sessions")

PROFILES: Final = {
    "test": settings(max_examples=60, stateful_step_count=40),
    "torture": settings(max_examples=2_000, stateful_step_count=80),
}
PROFILE: Final = settings(
    PROFILES[os.environ.get("PROFILE", "test")],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def async_rule(
    **strategies: Any,
) -> Callable[
    [Callable[Concatenate[M, P], Coroutine[Any, Any, None]]], Callable[Concatenate[M, P], None]
]:
    """`rule` for a coroutine method: it runs on the machine's own loop, at one moment."""

    def decorate(
        method: Callable[Concatenate[M, P], Coroutine[Any, Any, None]],
    ) -> Callable[Concatenate[M, P], None]:
        @wraps(method)
        def run(self: M, *args: P.args, **kwargs: P.kwargs) -> None:
            self.begin_step()
            self.runner.run(method(self, *args, **kwargs))

        ruled: Callable[Concatenate[M, P], None] = cast("Any", rule)(**strategies)(run)
        return ruled

    return decorate


class Sessions(Driver):
    """The rules: each is one moment, and what is under way between two of them is a slow tab."""

    # -- rules

    @async_rule(
        browser=st.integers(0, BROWSERS - 1),
        worker=st.integers(0, WORKERS - 1),
        acts=st.lists(acts, max_size=3),
        status=statuses,
    )
    async def visit(self, browser: int, worker: int, acts: list[Act], status: int | None) -> None:
        """One request, start to end."""
        await self._finish(await self._start(browser, worker), acts, status)

    @async_rule(
        browser=st.integers(0, BROWSERS - 1),
        worker=st.integers(0, WORKERS - 1),
        act=acts,
    )
    async def act(self, browser: int, worker: int, act: Act) -> None:
        """One request that does one thing, and succeeds."""
        await self._finish(await self._start(browser, worker), [act], 200)

    @precondition(lambda self: len(self.under_way) < 4)
    @async_rule(browser=st.integers(0, BROWSERS - 1), worker=st.integers(0, WORKERS - 1))
    async def start(self, browser: int, worker: int) -> None:
        """A slow request loads its session."""
        self.under_way.append(await self._start(browser, worker))

    @precondition(lambda self: self.under_way)
    @async_rule(
        which=st.integers(0, 3), acts=st.lists(acts, min_size=1, max_size=3), status=statuses
    )
    async def finish(self, which: int, acts: list[Act], status: int | None) -> None:
        """A slow request does what it does, and is answered."""
        await self._finish(self.under_way.pop(which % len(self.under_way)), acts, status)

    @async_rule(duration=st.sampled_from([16, 40, 400, DAY, 8 * DAY]))
    async def advance(self, duration: int) -> None:
        """Time passes: for the managers, for what expires, and for requests under way."""
        self.clock.added += duration
        for key in await self._keys():
            if not key.startswith(f"{self.mine}of:".encode()):  # it has the server's own clock
                left = await self.redis.pttl(key) - duration * 1000
                await (self.redis.pexpire(key, left) if left > 0 else self.redis.delete(key))
        self._keep_ages(duration)

    def begin_step(self) -> None:
        """Whole seconds pass between steps only."""
        self._keep_ages(self.clock.tick())

    def _keep_ages(self, added: float) -> None:
        """The server's clock wasn't moved: to it, requests under way are as old as before."""
        for visit in self.under_way:
            if visit.real is not None:
                state_of(visit.real).request.began += added

    @precondition(lambda self: self.model.sessions)
    @async_rule(which=st.integers(0, 50), worker=st.integers(0, WORKERS - 1), who=users)
    async def revoke(self, which: int, worker: int, who: str) -> None:
        """An administrator ends one session, if it is this user's."""
        id = list(self.model.sessions)[which % len(self.model.sessions)]
        ended = await self.managers[worker].revoke(id, principal=who)
        assert ended == self.model.revoke(who, id)

    @async_rule(worker=st.integers(0, WORKERS - 1), who=users, keep=st.none() | st.integers(0, 50))
    async def revoke_all(self, worker: int, who: str, keep: int | None) -> None:
        """An administrator ends all sessions of a user, or all but one."""
        ids = sorted(
            id for id in self.model.entered[who] if self.model.sessions[id].marked is False
        )
        kept = None if keep is None or not ids else ids[keep % len(ids)]
        count = await self.managers[worker].revoke_all(who, keep=kept)
        self.step += 1
        assert count == self.model.revoke_all(who, kept, self.step)
        await self._pass()

    @async_rule(worker=st.integers(0, WORKERS - 1), value=aliases)
    async def revoke_by(self, worker: int, value: str) -> None:
        """A provider ends all sessions with an alias."""
        count = await self.managers[worker].revoke_by("sid", value)
        self.step += 1
        assert count == self.model.revoke_by(value, self.step)
        await self._pass()

    @async_rule(worker=st.integers(0, WORKERS - 1))
    async def restart(self, worker: int) -> None:
        """A worker is replaced; what it is serving ends in the old one."""
        self.managers[worker] = self._new_manager(self.rings[worker])

    @precondition(lambda self: not self.under_way and len(self.keys) < 4)
    @async_rule()
    async def roll_out_a_key(self) -> None:
        """One worker after the other: first all know the new key, then it seals."""
        behind = [n for n, ring in enumerate(self.rings) if ring != self.keys]
        if not behind:
            newest_seals_nothing = self.announced
            self.keys = (
                [self.keys[-1], *self.keys[:-1]]
                if newest_seals_nothing
                else [*self.keys, generate_key()]
            )
            self.announced = not newest_seals_nothing
            behind = list(range(WORKERS))
        worker = behind[0]
        self.rings[worker] = self.keys
        self.managers[worker] = self._new_manager(self.keys)

    # -- what always holds

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        """Each token opens what it should; each user has the sessions they should."""
        self.begin_step()
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        manager = self.managers[self.step % WORKERS]
        loaded = await asyncio.gather(*(manager.load(token) for token in self.tokens))
        for token, session in zip(self.tokens, loaded, strict=True):
            model = self.model.opens(token)
            assert session.is_new == (model is None), "I1, I2"
            assert dict(session) == ({} if model is None else model.data)
            assert session.authentication_methods == (() if model is None else model.methods)
            if model is not None and session.idle_expires_at is not None:
                session.untouched()
                ends = min(model.seen + model.idle, model.expires)
                assert session.idle_expires_at.timestamp() == ends, "when it ends"
            whose = session.principal
            if whose is not None:
                others = [f"{user} " for user in USERS if user != whose]
                assert not any(other in str(dict(session)) for other in others), "I6"
        for who in USERS:
            listed = {info.id for info in await manager.sessions_of(who)}
            live = [s for s in self.model.sessions.values() if self.model.alive(s)]
            assert listed == {s.id for s in live if s.principal == who}, "I7"
        for key in await self._keys():
            assert await self.redis.pttl(key) != -1, "I3: every key has a TTL"


def run(url: str, prefix: str, profile: settings = PROFILE) -> None:
    """Let hypothesis look for a history in which the library and the model differ."""

    class Here(Sessions):
        """At this server."""

    Here.url, Here.prefix = url, prefix
    with index_script([marks_are(MARKS)]):
        run_state_machine_as_test(Here, settings=profile)

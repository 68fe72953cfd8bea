"""Step-up authentication: whether somebody proved recently, and well enough, who they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redis_sessions.errors import ConfigurationError
from redis_sessions.session.methods import checked_methods
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import Duration, seconds

__all__ = ["StepUp", "step_up"]


@dataclass(frozen=True, slots=True)
class StepUp:
    """What is asked of the last authentication."""

    within: int | None
    """How many seconds ago it may be. None: any time ago."""
    methods: frozenset[str]
    """The methods that it must have had. It may have had more."""

    def is_met(self, session: Session, now: float) -> bool:
        """Whether the stored session satisfies it. `now`: seconds since the epoch.

        A sign-in that the request itself makes isn't stored yet, and doesn't count.
        """
        since = session.authenticated_at
        if session.principal != state_of(session).principal:
            return False
        if since is None or (self.within is not None and now - since.timestamp() > self.within):
            return False
        return self.methods.issubset(session.authentication_methods)

    @property
    def challenge(self) -> str:
        """The `WWW-Authenticate` of RFC 9470.

        The RFC has no parameter for methods. So they are in one of our own, `amr_values`.
        """
        parts = ['Session error="insufficient_user_authentication"']
        if self.within is not None:
            parts.append(f"max_age={self.within}")
        if self.methods:
            parts.append(f'amr_values="{" ".join(sorted(self.methods))}"')
        return ", ".join(parts)


def step_up(within: Duration | None, methods: Iterable[str]) -> StepUp:
    """The checked options of `fresh()`. Raises `ConfigurationError`."""
    needed = frozenset(checked_methods(methods))
    if within is None and not needed:
        raise ConfigurationError("write fresh(within=300), fresh(methods={'otp'}), or both")
    return StepUp(None if within is None else seconds(within, "within"), needed)

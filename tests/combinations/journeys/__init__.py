"""What browsers and an application do: each journey is a function of a `World`.

An application has to be the same, whatever its options are. So handlers sign in and out by the
world's methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from tests.combinations.journeys import at_once, moving_in, troubles, users
from tests.combinations.world import World

Journey = Callable[[World], Awaitable[None]]

JOURNEYS: Final[dict[str, Journey]] = {
    journey.__name__: journey
    for journey in (
        users.first_visit,
        troubles.hostile,
        users.signing_in,
        users.the_same_user_again,
        users.another_user,
        users.changing,
        at_once.at_once,
        at_once.conflict,
        users.touching,
        users.expiring,
        users.rotating,
        users.more_rights,
        users.signing_out,
        at_once.clearing,
        at_once.revoking,
        at_once.revoking_all,
        at_once.revoking_by,
        at_once.ending_others,
        users.many_devices,
        troubles.store_away,
        troubles.store_goes_meanwhile,
        at_once.socket,
        users.exclusive,
        troubles.failing,
        troubles.cancelled,
        troubles.from_elsewhere,
        troubles.other_origin,
        troubles.refused_user,
        users.large,
        users.old_key,
        moving_in.moving_in,
        moving_in.moving_in_twice,
        moving_in.moving_in_signed,
        moving_in.signed_before,
        at_once.worker,
    )
}

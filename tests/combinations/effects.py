"""What a value changes by itself, or two values together, and which page of docs/ says so.

What stands here may differ, and nothing else. A line that nothing needs fails a test.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from tests.combinations.values import Value


class Effect(NamedTuple):
    """Where journeys with this value may differ from those without."""

    value: str
    """A value, such as `lazy=True`; `*` stands for any characters."""
    journeys: str
    """The journeys, with spaces between; `*` is all of them."""
    names: str
    """What may differ there, with spaces between, and _ for a space; `*` is all of it."""
    says: str
    """The page in docs/, and its section."""

    def covers(self, value: Value, journey: str, name: str) -> bool:
        """Whether this is the place."""
        return (
            fnmatchcase(str(value), self.value)
            and (self.journeys == "*" or journey in self.journeys.split())
            and (self.names == "*" or name.replace(" ", "_") in self.names.split())
        )


class Together(NamedTuple):
    """Where a journey with both values may differ from what each of them does alone."""

    one: str
    other: str
    journeys: str
    names: str
    says: str

    @property
    def needs_redis(self) -> bool:
        """Whether only a Redis has one of the values."""
        return "url=*" in (self.one, self.other)

    def covers(self, one: Value, other: Value, journey: str, name: str) -> bool:
        """Whether this is the place."""
        here = Effect("*", self.journeys, self.names, self.says)
        return here.covers(one, journey, name) and any(
            fnmatchcase(str(first), self.one) and fnmatchcase(str(second), self.other)
            for first, second in ((one, other), (other, one))
        )


class Refused(NamedTuple):
    """Two values that can't be used together. The application doesn't start, and says why."""

    one: str
    other: str
    why: str
    """The beginning of what the error says."""
    needs_redis: bool = False


EFFECTS: Final = (
    Effect("session_cookie=*", "*", "attributes names", "options.md#the-middleware"),
    Effect("path=*", "*", "attributes names", "options.md#the-middleware"),
    Effect("same_site=*", "*", "attributes names", "options.md#the-middleware"),
    Effect("https_only=*", "*", "attributes names", "options.md#the-middleware"),
    Effect("domain=*", "*", "attributes names", "options.md#the-middleware"),
    Effect("partitioned=*", "*", "attributes names", "options.md#the-middleware"),
    Effect("max_age=*", "*", "attributes", "lifetimes.md"),
    Effect("same_site='none'", "other_origin", "*", "cross-site.md"),
    Effect("transport=header", "*", "attributes names vary", "transports.md"),
    Effect("transport=header", "other_origin", "*", "cross-site.md"),
    Effect("transport=cookie and header", "*", "vary", "transports.md"),
    Effect("transport=header and cookie", "*", "attributes names vary", "transports.md"),
    Effect("transport=header and cookie", "other_origin", "*", "cross-site.md"),
    Effect("binding=*", "from_elsewhere", "*", "binding.md"),
    Effect("on_unavailable=*", "store_away", "*", "unavailable.md#what-a-request-gets"),
    Effect("touch=*", "touching expiring", "idle events", "idle-warning.md"),
    Effect("lazy=True", "store_away", "events headers", "fastapi.md#lazy"),
    Effect("end_sockets=False", "socket", "events messages", "live.md"),
    Effect("cross_site=*", "other_origin", "*", "cross-site.md"),
    Effect("trusted_origins=*", "other_origin", "*", "cross-site.md#trusted-origins"),
    Effect("clear_site_data=*", "*", "clears", "security.md"),
    Effect("accept=one that*", "moving_in", "*", "migration/accept.md#how-accept-works"),
    Effect("accept=StarletteCookie", "moving_in_signed", "*", "migration/accept.md"),
    Effect(
        "accept=StarletteCookie", "signed_before", "events other_cookies", "migration/accept.md"
    ),
    Effect("client_cache=*", "*", "hinted", "near-copies.md"),
    Effect("client_cache=*", "store_away", "*", "near-copies.md"),
    Effect("url='?replicas=read'", "*", "hinted", "stores.md#reading-from-replicas"),
    Effect("url='?replicas=read'", "store_away", "*", "stores.md#reading-from-replicas"),
    Effect("max_age=3600", "*", "ends idle", "lifetimes.md"),
    Effect("max_age=3600", "touching", "*", "lifetimes.md"),
    Effect("idle_timeout=3600", "*", "idle", "lifetimes.md"),
    Effect("idle_timeout=3600", "touching", "*", "lifetimes.md"),
    Effect("principal=callable", "revoking_by", "*", "single-sign-on.md"),
    Effect("rotate_on=*", "more_rights", "*", "concepts.md#when-rights-change"),
    Effect(
        "max_sessions=1",
        "many_devices revoking revoking_all ending_others",
        "*",
        "sessions.md#limits",
    ),
    Effect("max_sessions=2", "many_devices", "*", "sessions.md#limits"),
    Effect("on_conflict='error'", "at_once conflict", "*", "concurrency.md#merging"),
    Effect("max_size=4096", "large", "*", "options.md#the-middleware"),
    Effect("personal_events=True", "*", "personal", "events.md#who-it-was-and-from-where"),
    Effect("manager=a load() of its own", "refused_user", "*", "testing.md"),
    Effect("a mounted application=yes", "failing", "*", "unavailable.md"),
)

TOGETHER: Final = (
    Together("transport=header*", "url=*", "*", "hinted", "stores.md#reading-from-replicas"),
    Together("transport=header*", "url=*", "store_away", "*", "stores.md#reading-from-replicas"),
    Together("lazy=True", "url=*", "store_away", "*", "stores.md#reading-from-replicas"),
    Together("manager=a load()*", "url=*", "store_away", "*", "stores.md#reading-from-replicas"),
    Together("on_unavailable='anonymous'", "lazy=True", "store_away", "events", "unavailable.md"),
    Together("transport=header*", "client_cache=*", "*", "hinted", "near-copies.md"),
    Together("accept=one that is f*", "client_cache=*", "*", "hinted", "near-copies.md"),
    Together("manager=a load()*", "client_cache=*", "*", "hinted", "near-copies.md"),
    Together("transport=header and*", "accept=*", "*", "names attributes", "transports.md"),
    Together("a mounted*", "clear_site_data=*", "failing", "clears", "security.md"),
    Together("transport=header*", "max_age=*", "*", "attributes", "transports.md"),
    Together("transport=header*", "cross_site='refuse'", "other_origin", "*", "cross-site.md"),
    Together("transport=header and*", "clear_site_data=*", "*", "clears", "security.md"),
    Together("binding=*", "on_binding_mismatch=*", "from_elsewhere", "*", "binding.md"),
    Together("clear_site_data=*", "cross_site='allow'", "other_origin", "clears", "cross-site.md"),
    Together("clear_site_data=*", "trusted_origins=*", "other_origin", "clears", "cross-site.md"),
    Together("clear_site_data=*", "accept=Star*", "moving_in_signed", "clears", "security.md"),
    Together("max_age=3600", "idle_timeout=3600", "touching", "idle", "lifetimes.md"),
    Together("touch=*", "max_age=3600", "touching", "idle", "idle-warning.md"),
    Together("touch=*", "idle_timeout=3600", "touching", "idle", "idle-warning.md"),
    Together("cross_site='refuse'", "trusted_origins=*", "other_origin", "*", "cross-site.md"),
)

REFUSED: Final = (
    Refused("transport=*", "session_cookie=*", "transport= already decides session_cookie"),
    Refused("transport=*", "path=*", "transport= already decides path"),
    Refused("transport=*", "same_site=*", "transport= already decides same_site"),
    Refused("transport=*", "https_only=*", "transport= already decides https_only"),
    Refused("transport=*", "domain=*", "transport= already decides domain"),
    Refused("transport=*", "partitioned=*", "transport= already decides partitioned"),
    Refused("transport=header", "clear_site_data=*", "clear_site_data= is for browsers"),
    Refused("transport=header", "accept=*", "accept= is for browsers"),
    Refused("same_site='none'", "https_only=False", "same_site='none' needs https_only=True"),
    Refused("partitioned=True", "https_only=False", "partitioned=True needs https_only=True"),
    Refused("accept=*", "manager=a load()*", "accept= and a manager with a load() of its own"),
    Refused("accept=one that is f*", "accept=one that isn't*", "accept=: write each source once"),
)

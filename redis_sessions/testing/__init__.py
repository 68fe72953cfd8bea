"""For tests: of an application that has sessions, and of a store of your own."""

from redis_sessions.testing.channels_conformance import ChannelsConformance
from redis_sessions.testing.clients import (
    browser_cookie,
    get_session_data,
    read_session,
    set_session_data,
    store_session,
)
from redis_sessions.testing.clock import Clock
from redis_sessions.testing.conformance import StoreConformance
from redis_sessions.testing.enumeration_conformance import EnumerationConformance
from redis_sessions.testing.index_conformance import IndexConformance
from redis_sessions.testing.watch_conformance import WatchConformance

__all__ = [
    "ChannelsConformance",
    "Clock",
    "EnumerationConformance",
    "IndexConformance",
    "StoreConformance",
    "WatchConformance",
    "browser_cookie",
    "get_session_data",
    "read_session",
    "set_session_data",
    "store_session",
]

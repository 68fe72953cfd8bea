"""What MessagePack holds, as hypothesis makes it up."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

examples: Final = settings(
    deadline=None,
    max_examples=60,
    # A prefix, a server: what the examples of one test may well share.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


texts: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    texts,
    st.binary(max_size=20),
    # astimezone() has no years before 1 or after 9999.
    st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001  # the strategy adds the zone
        max_value=datetime(9998, 12, 31),  # noqa: DTZ001
        timezones=st.timezones(),
    ),
)
storable: Final = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
datas: Final = st.dictionaries(texts, storable, max_size=5)

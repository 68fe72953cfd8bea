"""The lifecycle's tests that need no eyes on the server, over every deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from redis_sessions import RedisStore, SessionManager
from tests.integration.lifecycle import test_concurrency as concurrency
from tests.integration.lifecycle import test_late_changes as late_changes
from tests.integration.lifecycle import test_many_sessions as many_sessions
from tests.integration.lifecycle import test_revoking as revoking
from tests.support.apps import (
    manager_on,
)
from tests.support.deployments import Deployment

test_64_increments = concurrency.test_64_increments
test_64_keys = concurrency.test_64_keys
test_a_late_change_after_a_revocation = late_changes.test_a_late_change_after_a_revocation
test_a_refused_sign_in_is_503 = revoking.test_a_refused_sign_in_is_503
test_a_value_is_taken_once = concurrency.test_a_value_is_taken_once
test_another_process_holds_the_lock = concurrency.test_another_process_holds_the_lock
test_devices = revoking.test_devices
test_late_changes_are_merged = late_changes.test_late_changes_are_merged
test_password_reset = revoking.test_password_reset
test_revoked_while_a_request_is_under_way = revoking.test_revoked_while_a_request_is_under_way
test_revoking_an_id_of_ones_making = many_sessions.test_revoking_an_id_of_ones_making
test_saving_in_a_background_task = late_changes.test_saving_in_a_background_task
test_signing_out_everywhere = revoking.test_signing_out_everywhere


@pytest.fixture
async def workers(deployment: Deployment, prefix: str) -> AsyncIterator[list[SessionManager]]:
    """Four processes' managers, each with a store of its own."""
    stores = [RedisStore(deployment.url, prefix=prefix, **deployment.options) for _ in range(4)]
    yield [manager_on(store) for store in stores]
    for store in stores:
        await store.close()


@pytest.fixture
def manager(workers: list[SessionManager]) -> SessionManager:
    return workers[0]

"""What is known of one user, taken to a moment."""

from __future__ import annotations

import pytest

from sentinel.limits.account import Account, Lease, Snapshot
from tests.support.arrivals import START_MS, policy_of

POLICY = policy_of(("ai_requests", 10, 60), lease_seconds=30)


@pytest.mark.parametrize("has_quota", [True, False])
def test_a_clock_that_goes_back_takes_all_moments_along(has_quota: bool) -> None:
    """Nothing lies in the future afterwards, so that nobody waits for it; what was spent stays spent."""
    account, now = Account(), START_MS - 365 * 86_400_000
    (window,) = POLICY.windows
    account.windows[window.name] = {window.slice_of(START_MS): 3, window.slice_of(START_MS) - 1: 4}
    account.leases["req_1"] = Lease(START_MS + 30_000, START_MS, [1, 2, 3], "ana", "ana@x.y", "m")
    account.quota = Snapshot(START_MS, [9, 9, 9], [1, 1, 1], [0, 0, 0]) if has_quota else None
    account.last = account.ask = account.lease = START_MS
    assert account.load(POLICY, now)
    assert account.windows[window.name] == {window.slice_of(now): 7}
    lease = account.leases["req_1"]
    assert (lease.ends, lease.at) == (now + POLICY.lease_ms, now)
    assert (account.last, account.ask, account.lease) == (now, now, now)
    assert (account.quota.at if account.quota else now) == now


def test_a_moment_that_is_not_earlier_changes_nothing() -> None:
    """Neither the same one nor a later one."""
    account = Account()
    account.last = START_MS
    assert not account.load(POLICY, START_MS)
    assert not account.load(POLICY, START_MS + 1)

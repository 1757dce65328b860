"""Memory in place of Redis: what is in flight here counts, and nothing is granted on limits that nobody told."""

from __future__ import annotations

from sentinel.cache.local_ledger import LocalLedger
from sentinel.limits.policy import Cost, Policy, Quota, Reservation

POLICY = Policy((), None, 30_000, 300_000, 3_600_000)


def ask(number: int, output: int = 300) -> Reservation:
    return Reservation(f"req_{number}", "ana", "ana@corp.test", "gpt-4o-mini", 10, output)


def test_a_stream_keeps_what_it_holds_and_gets_no_more_without_limits() -> None:
    """Redis has admitted it, and is gone: nobody here knows the subscription."""
    local = LocalLedger(POLICY, 1)
    local.admitted(ask(1), 300)
    assert local.extend(ask(1), 300, 100, 250) is None
    assert not local.reserve(ask(2)).quota_known
    assert not local.view("ana").known


def test_what_other_streams_of_this_process_hold_counts() -> None:
    """Redis has admitted both; the one that outgrows its reservation gets nothing of the other's."""
    local = LocalLedger(POLICY, 1)
    local.admitted(ask(1), 300)
    local.admitted(ask(2), 300)
    local.extended(ask(2), 650)
    local.extended(ask(3), 900)  # It has ended, and must not be known again.
    local.refresh("ana", Quota((-1, -1, 1000)), -1)
    assert local.extend(ask(1), 300, 100, 250) == 350
    assert local.extend(ask(1), 350, 100, 350) == 350
    local.settle(ask(2), Cost(1, 10, 600))
    assert local.extend(ask(1), 350, 100, 350) == 400


def test_what_was_settled_before_anybody_asked_counts() -> None:
    """The first request during the outage finds what ended in it."""
    local = LocalLedger(POLICY, 1)
    local.admitted(ask(1), 300)
    local.settle(ask(1), Cost(1, 10, 280))
    local.refresh("ana", Quota((-1, -1, 1000)), -1)
    assert local.reserve(ask(2, 1000)).granted_output == 720


def test_what_redis_knows_is_not_counted_here() -> None:
    """While Redis is there, memory remembers what is in flight, and nothing else."""
    local = LocalLedger(POLICY, 1)
    for number in range(100):
        local.admitted(ask(number), 300)
        local.settle(ask(number), Cost(1, 10, 280), redis_knows=True)
    local.refresh("ana", Quota((-1, -1, 1000)), -1)
    assert local.reserve(ask(2, 1000)).granted_output == 1000


def test_each_process_extends_within_its_share() -> None:
    """Four of them have a quarter each of what was left."""
    local = LocalLedger(POLICY, 4)
    local.admitted(ask(1), 100)
    local.refresh("ana", Quota((-1, -1, 1000), (0, 0, 200)), -1)
    assert local.extend(ask(1), 100, 500, 90) == 200

"""What Zion has refused for good stays spent, until an operator or the end of its period frees it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sentinel.limits import ledger
from sentinel.limits.account import Account
from sentinel.limits.policy import Cost, Quota
from tests.support.arrivals import START_MS, ask_of, policy_of

POLICY = policy_of(lease_seconds=30)
SPENT = Cost(1, 10, 50)


@pytest.fixture
def account() -> Account:
    """One with an output quota of 100 and usage that waits for Zion."""
    account = Account()
    ledger.refresh(account, POLICY, Quota((-1, -1, 100)), 0, START_MS)
    ledger.reserve(account, POLICY, ask_of(1, 10, 50), START_MS)
    ledger.settle(account, POLICY, ask_of(1, 10, 50), SPENT, START_MS)
    return account


def left(account: Account) -> float | None:
    return account.left(2)


def test_a_dead_letter_counts_as_spent(account: Account) -> None:
    """From pending to refused nothing becomes free; sent again it is pending, deleted it is not there."""
    (bill,) = account.outbox
    assert (left(account), account.pend) == (50, list(SPENT))
    ledger.bury(account, POLICY, bill, START_MS)
    assert (left(account), account.pend) == (50, [0, 0, 0])
    ledger.requeue(account, POLICY, bill, START_MS)
    assert (left(account), account.pend, account.letters) == (50, list(SPENT), [0, 0, 0])
    ledger.bury(account, POLICY, bill, START_MS)
    ledger.discard(account, POLICY, bill, START_MS)
    assert (left(account), account.letters) == (100, [0, 0, 0])


def test_a_letter_of_an_earlier_period_counts_nowhere(account: Account) -> None:
    """Its quota is over."""
    (bill,) = account.outbox
    account.rolled = [START_MS + 1] * 3
    account.n += 1
    old = replace(bill, at=START_MS)
    ledger.bury(account, POLICY, old, START_MS + 2)
    assert account.letters == [0, 0, 0]

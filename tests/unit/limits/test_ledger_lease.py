"""A lease returns what it holds once, and a request that outlives its lease is billed once all the same."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.limits import ledger
from sentinel.limits.account import Account
from sentinel.limits.policy import PLACE_TAKEN, ByDimension, Cost, Policy, Quota
from tests.support.arrivals import START_MS, ask_of, policy_of

LEASE_MS = 30_000


class Leases:
    """One account with short leases. Moments are milliseconds after START_MS."""

    def __init__(self, quota: ByDimension = (-1, -1, 1000)) -> None:
        self.policy: Policy = policy_of(
            ("ai_requests", 100, 60), ("ai_output_tokens", 1000, 60), concurrency=3, lease_seconds=LEASE_MS / 1000
        )
        self.account = Account()
        ledger.refresh(self.account, self.policy, Quota(quota), 0, START_MS)

    def reserve(self, number: int, at: int, output: int = 300) -> int | None:
        """The output granted, None = refused."""
        verdict = ledger.reserve(self.account, self.policy, ask_of(number, 10, output), START_MS + at)
        return verdict.granted_output if verdict.admitted else None

    def extend(self, number: int, at: int, more: int = 0, delivered: int = 0, held: int = 300) -> int | None:
        """What the request holds then."""
        ask = ask_of(number, 10, held)
        return ledger.extend(self.account, self.policy, ask, more, delivered, START_MS + at)

    def settle(self, number: int, at: int, output: int) -> bool | None:
        return ledger.settle(self.account, self.policy, ask_of(number), Cost(1, 10, output), START_MS + at)

    def expire(self, at: int) -> int:
        return ledger.expire(self.account, self.policy, START_MS + at)

    def window(self, at: int) -> int:
        """Output tokens in the window."""
        return sum(self.account.live(self.policy.windows[1], START_MS + at).values())

    def billed(self, number: int) -> Cost:
        """All bills of one request together."""
        bills = [bill.spent for bill in self.account.outbox if bill.id == f"req_{number}"]
        return Cost(*(sum(bill[d] for bill in bills) for d in range(3)))


def test_a_dead_request_returns_all_it_held_once() -> None:
    """Tokens, window and slot come back when the lease ends; the request stays counted, and nothing is billed."""
    leases = Leases()
    for number in range(3):
        leases.reserve(number, 0)
    assert leases.reserve(3, LEASE_MS - 1) is None
    assert leases.expire(LEASE_MS) == 3
    assert leases.expire(LEASE_MS) == 0
    assert (leases.account.held, leases.account.open, leases.window(LEASE_MS)) == ([0, 0, 0], 0, 0)
    assert sum(leases.account.live(leases.policy.windows[0], START_MS + LEASE_MS).values()) == 3
    assert not leases.account.outbox


def test_the_next_reservation_ends_leases_that_are_due() -> None:
    """Nobody waits for the lease expirer."""
    leases = Leases()
    for number in range(3):
        leases.reserve(number, 0)
    assert leases.reserve(9, LEASE_MS) == 300


def test_a_renewed_lease_does_not_end() -> None:
    """A stream may live for hours."""
    leases = Leases()
    leases.reserve(1, 0)
    for at in range(0, 20 * LEASE_MS, LEASE_MS // 3):
        leases.extend(1, at)
        assert leases.expire(at) == 0
    assert leases.account.open == 1


def test_a_stream_that_dies_is_billed_its_last_checkpoint() -> None:
    """What was delivered until then, with the input; the rest comes back."""
    leases = Leases()
    leases.reserve(1, 0)
    leases.extend(1, 1000, delivered=120)
    leases.expire(1000 + LEASE_MS)
    assert leases.billed(1) == (1, 10, 120)
    assert leases.account.left(2) == 880
    assert leases.window(1000 + LEASE_MS) == 120


@pytest.mark.parametrize("checkpoint", [None, 120])
def test_a_settlement_after_the_end_still_bills(checkpoint: int | None) -> None:
    """A process that was only paused: all its bills together are what was spent."""
    leases = Leases()
    leases.reserve(1, 0)
    if checkpoint:
        leases.extend(1, 0, delivered=checkpoint)
    leases.expire(LEASE_MS)
    assert leases.settle(1, LEASE_MS + 5000, 200)
    assert leases.billed(1) == (1, 10, 200)
    assert leases.window(LEASE_MS + 5000) == 200
    assert (leases.account.held, leases.account.open, leases.account.left(2)) == ([0, 0, 0], 0, 800)
    assert not leases.settle(1, LEASE_MS + 5000, 200)
    assert leases.billed(1) == (1, 10, 200)


@pytest.mark.parametrize("checkpoint", [None, 120])
def test_a_lease_that_ended_is_taken_up_again(checkpoint: int | None) -> None:
    """What the request holds counts again, in the quota, the window and the slots, until it is settled."""
    leases = Leases()
    leases.reserve(1, 0)
    if checkpoint:
        leases.extend(1, 0, delivered=checkpoint)
    leases.expire(LEASE_MS)
    assert leases.extend(1, LEASE_MS + 10, more=100, delivered=150) == 400
    assert leases.account.open == 1
    # What was billed at the last checkpoint is usage by now.
    assert leases.account.held == ([0, 0, 400 - checkpoint] if checkpoint else [1, 10, 400])
    assert leases.account.left(2) == 1000 - 400
    assert leases.window(LEASE_MS + 10) == 400
    assert leases.settle(1, LEASE_MS + 20, 260)
    assert leases.billed(1) == (1, 10, 260)
    assert leases.window(LEASE_MS + 20) == 260
    assert leases.account.held == [0, 0, 0]


def test_a_renewal_after_the_settlement_opens_nothing() -> None:
    """It was on its way when the request ended."""
    leases = Leases()
    leases.reserve(1, 0)
    leases.settle(1, 10, 5)
    assert leases.extend(1, 20, more=100) == 300
    assert (leases.account.open, leases.account.held, leases.expire(10 * LEASE_MS)) == (0, [0, 0, 0], 0)


@pytest.mark.parametrize(("quota", "left"), [(-1, 100), (2000, 100), (950, 50)])
def test_an_extension_takes_no_more_than_is_left(quota: int, left: int) -> None:
    """Of the quota and of the window, whichever is less."""
    leases = Leases((-1, -1, quota))
    leases.reserve(1, 0, 900)
    assert leases.extend(1, 0, more=500, held=900) == 900 + left
    assert leases.extend(1, 0, more=500, held=900 + left) == 900 + left


@pytest.mark.parametrize(("others", "keeps"), [(300, 300), (900, 220), (1000, 120)])
@pytest.mark.parametrize("limit", ["quota", "window"])
def test_a_lease_that_ended_is_taken_up_with_what_others_have_left(limit: str, others: int, keeps: int) -> None:
    """A process that was stopped for too long gets back no more than is there, and keeps what it has delivered."""
    leases = Leases((-1, -1, 1120 if limit == "quota" else -1))
    if limit == "quota":
        leases.policy = replace(leases.policy, windows=())
    leases.reserve(1, 0)
    leases.extend(1, 0, delivered=120 if limit == "quota" else 0)
    leases.expire(LEASE_MS)
    assert leases.reserve(2, LEASE_MS, others) == others
    at = LEASE_MS + 1000
    # Of the window nothing was billed: what was delivered counts although it is full.
    holds = leases.extend(1, at, delivered=120)
    assert holds == (keeps if limit == "quota" else max(120, min(300, 1000 - others)))
    assert leases.extend(1, at, more=50, delivered=120, held=holds) == holds + (50 if others == 300 else 0)


@pytest.mark.parametrize("quota", [(1, -1, -1), (-1, 10, -1)])
def test_a_place_that_others_have_is_not_taken_up(quota: ByDimension) -> None:
    """Nothing was delivered: then it is one request too many, and nothing is changed. If they give it back, it is."""
    leases = Leases(quota)
    assert leases.reserve(1, 0) == 300
    leases.expire(LEASE_MS)
    assert leases.reserve(2, LEASE_MS) == 300
    before = deepcopy(leases.account)
    assert leases.extend(1, LEASE_MS + 1, delivered=-1) == PLACE_TAKEN
    assert leases.account == replace(before, last=START_MS + LEASE_MS + 1)
    leases.expire(2 * LEASE_MS)
    assert leases.extend(1, 2 * LEASE_MS, delivered=-1) == 300
    assert leases.account.held == [1, 10, 300]


def test_a_window_of_input_that_others_fill_is_a_place() -> None:
    """The window of requests has the request still, and gives its room to nobody."""
    leases = Leases()
    leases.policy = policy_of(("ai_requests", 2, 3600), ("ai_input_tokens", 20, 3600), lease_seconds=LEASE_MS / 1000)
    leases.reserve(1, 0)
    leases.reserve(2, 0)
    leases.settle(2, 1, 5)
    leases.expire(LEASE_MS)
    assert leases.extend(1, LEASE_MS, delivered=-1) == 300
    leases.expire(2 * LEASE_MS)
    leases.policy = policy_of(("ai_requests", 3, 3600), ("ai_input_tokens", 20, 3600), lease_seconds=LEASE_MS / 1000)
    assert leases.reserve(3, 2 * LEASE_MS) == 300
    assert leases.extend(1, 2 * LEASE_MS, delivered=-1) == PLACE_TAKEN


@pytest.mark.parametrize("delivered", [0, 120])
def test_what_was_delivered_is_charged_though_others_have_its_place(delivered: int) -> None:
    """The client has it: it can only be counted."""
    leases = Leases((1, -1, -1))
    leases.reserve(1, 0)
    leases.expire(LEASE_MS)
    leases.reserve(2, LEASE_MS)
    assert leases.extend(1, LEASE_MS, delivered=delivered) == 300
    assert leases.account.held == [2, 20, 600]


@pytest.mark.parametrize("known_before", [False, True])
def test_without_limits_nothing_is_added(known_before: bool) -> None:
    """An account that was forgotten, or whose limits are too old, extends nothing, and says so; a lease is kept."""
    leases = Leases()
    at = 0
    if known_before:
        leases.reserve(1, 0)
        at = leases.policy.fresh_ms + leases.policy.stale_ms
    else:
        leases.account = Account()
    assert leases.extend(1, at, more=100, delivered=5) is None
    assert leases.account.held == [1, 10, 300]
    ledger.refresh(leases.account, leases.policy, Quota((-1, -1, 350)), -1, START_MS + at)
    assert leases.extend(1, at, more=100, delivered=5) == 350


def test_many_leases_that_end_one_by_one_cost_few_looks() -> None:
    """Each look reads all leases, so there is one in a twentieth of a lease at most."""
    leases = Leases()
    leases.policy = replace(leases.policy, concurrency=None)
    for number in range(100):
        leases.reserve(number, number * 100, 1)
    ended = [count for at in range(LEASE_MS, LEASE_MS + 12_000, 50) if (count := leases.expire(at))]
    assert sum(ended) == 100
    assert len(ended) <= 10_000 / (LEASE_MS / 20) + 2


outputs = st.integers(0, 300)


@settings(max_examples=200)
@given(
    data=st.data(),
    ends=st.lists(st.tuples(outputs, st.booleans()), min_size=1, max_size=6),
)
def test_every_token_is_billed_once(data: st.DataObject, ends: list[tuple[int, bool]]) -> None:
    """Checkpoints, ends of leases, renewals and settlements in any order: each request is billed what it delivered."""
    leases = Leases((-1, -1, -1))
    leases.policy = replace(policy_of(concurrency=None), lease_ms=LEASE_MS)
    now, sent = 0, dict.fromkeys(range(len(ends)), 0)
    for number in sent:
        leases.reserve(number, 0)
    for _ in range(data.draw(st.integers(0, 20))):
        now += data.draw(st.sampled_from([0, 500, 10_000, 31_000]))
        number = data.draw(st.sampled_from(sorted(sent)))
        if data.draw(st.booleans()):
            leases.expire(now)
        else:
            sent[number] = data.draw(st.integers(sent[number], max(sent[number], ends[number][0])))
            leases.extend(number, now, delivered=sent[number])
    for number, (output, twice) in enumerate(ends):
        for _ in range(1 + twice):
            leases.settle(number, now, max(output, sent[number]))
    leases.expire(now + LEASE_MS)
    assert [leases.billed(n) for n in sent] == [(1, 10, max(output, sent[n])) for n, (output, _) in enumerate(ends)]
    assert (leases.account.open, leases.account.held) == (0, [0, 0, 0])


def test_an_old_settlement_is_done_only_where_something_tells_that_it_was_not() -> None:
    """It may have been done, and forgotten since: nobody is charged twice."""
    leases = Leases()
    leases.reserve(1, 0)

    def unsure(number: int) -> bool | None:
        spent, now = Cost(1, 10, 50), START_MS + 60_000
        return ledger.settle(leases.account, leases.policy, ask_of(number), spent, now, unsure=True)

    assert unsure(2) is None
    assert not leases.account.outbox
    assert unsure(1) is True
    assert unsure(1) is False
    assert leases.billed(1) == (1, 10, 50)

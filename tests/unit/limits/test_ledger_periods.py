"""What Zion says about limits, in the cases that a model would meet once in a million steps."""

from __future__ import annotations

import pytest

from sentinel.limits import ledger
from sentinel.limits.account import Account, Bill
from sentinel.limits.policy import ByDimension, Cost, Policy, Quota, Verdict
from tests.support.arrivals import START_MS, ask_of

HOUR_MS = 3_600_000
FRESH_MS = 300_000
POLICY = Policy((), None, lease_ms=30_000, fresh_ms=FRESH_MS, stale_ms=HOUR_MS)
NONE: ByDimension = (0, 0, 0)
UNTOLD: ByDimension = (-1, -1, -1)
NO_LIMIT_TOLD: ByDimension = (-2, -2, -2)


class Story:
    """One account, step by step, in milliseconds after START_MS."""

    def __init__(self, limit: ByDimension, used: ByDimension = NONE, ends: ByDimension = NONE) -> None:
        self.account = Account()
        self.number = 0
        self.refresh(0, limit, used, ends)

    def refresh(
        self, at: int, limit: ByDimension, used: ByDimension = NONE, ends: ByDimension = NONE, seq: int | None = None
    ) -> None:
        r, i, o = (end and START_MS + end for end in ends)
        seq = self.account.seq if seq is None else seq
        ledger.refresh(self.account, POLICY, Quota(limit, used, (r, i, o)), seq, START_MS + at)

    def reserve(self, at: int, inputs: int = 0, output: int = 0) -> Verdict:
        self.number += 1
        return ledger.reserve(self.account, POLICY, ask_of(self.number, inputs, output, least=0), START_MS + at)

    def spend(self, at: int, inputs: int) -> Bill:
        """Reserve and settle; the bill is on its way to Zion."""
        assert self.reserve(at, inputs).admitted
        ledger.settle(self.account, POLICY, ask_of(self.number), Cost(1, inputs, 0), START_MS + at)
        return self.account.outbox[-1]

    def acknowledge(self, at: int, bill: Bill, new: ByDimension = UNTOLD, limit: ByDimension = NO_LIMIT_TOLD) -> None:
        ledger.acknowledge(self.account, POLICY, bill.spent, bill.period, new, limit, START_MS + at)

    def left(self, dimension: int = 1) -> float | None:
        return self.account.left(dimension)


def test_usage_counts_once_on_its_way_from_reservation_to_zion() -> None:
    """Reserved, settled, acknowledged: what is left is the same after each step."""
    story = Story((-1, 1000, -1), (0, 100, 0))
    assert story.reserve(0, 50).admitted
    assert story.left() == 850
    ledger.settle(story.account, POLICY, ask_of(1), Cost(1, 50, 0), START_MS)
    assert story.left() == 850
    story.acknowledge(0, story.account.outbox[0], (1, 150, 0))
    assert story.left() == 850


def test_what_others_used_comes_with_the_acknowledgement() -> None:
    """Zion's new value counts, not our sum."""
    story = Story((-1, 1000, -1))
    story.acknowledge(0, story.spend(0, 10), (1, 700, 0))
    assert story.left() == 300


def test_acknowledgements_may_overtake_each_other() -> None:
    """The higher value is the later one."""
    story = Story((-1, 1000, -1))
    first, second = story.spend(0, 10), story.spend(0, 20)
    story.acknowledge(0, second, (2, 30, 0))
    story.acknowledge(0, first, (1, 10, 0))
    assert story.left() == 970


def test_an_answer_from_before_an_acknowledgement_loses_nothing() -> None:
    """Asked before and stored after: what Zion took meanwhile counts, and Zion is asked again soon."""
    story = Story((-1, 1000, -1))
    bill, seq = story.spend(0, 400), story.account.seq
    story.acknowledge(0, bill, (1, 400, 0))
    story.refresh(0, (-1, 1000, -1), (0, 0, 0), seq=seq)
    assert story.left() == 600
    assert not story.reserve(4_999).refresh
    assert story.reserve(5_000).refresh


def test_a_silent_zion_is_asked_what_it_has_booked() -> None:
    """Usage that Zion took without telling its value counts until the next answer."""
    story = Story((-1, 1000, -1))
    story.acknowledge(0, story.spend(0, 400))
    assert story.left() == 600
    story.refresh(0, (-1, 1000, -1), (0, 450, 0))
    assert story.left() == 550


def test_an_older_answer_does_not_undo_a_younger_one() -> None:
    """Two processes ask at once, and their answers arrive in the wrong order."""
    story = Story((-1, 1000, -1))
    seq = story.account.seq
    story.refresh(0, (-1, 1000, -1), (0, 500, 0), seq=seq)
    story.refresh(0, (-1, 1000, -1), (0, 200, 0), seq=seq)
    assert story.left() == 500


def test_an_administrator_sets_used_back() -> None:
    """A lower value in an undisturbed answer is taken."""
    story = Story((-1, 1000, -1), (0, 1000, 0))
    assert not story.reserve(0, 1).admitted
    story.refresh(1, (-1, 1000, -1), (0, 0, 0))
    assert story.reserve(2, 1).admitted


def test_an_operators_refresh_is_taken_as_it_is() -> None:
    """With seq -1 nothing that came meanwhile holds it up."""
    story = Story((-1, 1000, -1))
    story.acknowledge(0, story.spend(0, 10), (1, 1000, 0))
    story.refresh(1, (-1, 1000, -1), (0, 0, 0), seq=-1)
    assert story.left() == 1000


def test_a_limit_may_shrink_below_what_is_used() -> None:
    """Nothing is admitted, and the refusal tells the true numbers."""
    story = Story((-1, 1000, -1), (0, 800, 0))
    story.refresh(1, (-1, 500, -1), (0, 800, 0))
    blocker = story.reserve(2, 1).blocker
    assert blocker is not None
    assert (blocker.metric, blocker.limit, blocker.used, blocker.remaining) == ("ai_input_tokens", 500, 800, 0)


def test_a_limit_in_an_acknowledgement_is_taken_and_confirmed() -> None:
    """A changed plan shows with the next usage; Zion is asked for the rest of it within seconds."""
    story = Story((-1, 100, -1))
    story.acknowledge(1_000, story.spend(0, 100), (1, 100, 0), (-2, 1000, -2))
    assert story.left() == 900
    assert story.reserve(5_000).refresh


def test_unlimited_dimensions_limit_nothing() -> None:
    """Negative limits admit anything."""
    assert Story((-1, -1, -1), (10**12, 10**12, 10**12)).reserve(0, 10**9, 10**9).admitted


def test_the_period_ends_while_a_request_is_open() -> None:
    """`used` starts again at 0; what is still in flight or on its way to Zion counts in the new period."""
    story = Story((-1, 1000, -1), (0, 700, 0), (0, 10_000, 0))
    assert story.reserve(0, 100).admitted
    story.spend(0, 50)
    verdict = story.reserve(10_000, 1)
    assert verdict.admitted
    assert verdict.refresh
    assert story.left() == 1000 - 100 - 50 - 1


def test_usage_of_the_old_period_is_told_in_the_new_one() -> None:
    """Zion's value of the old period does not count in the new one."""
    story = Story((-1, 1000, -1), (0, 700, 0), (0, 10_000, 0))
    bill = story.spend(0, 50)
    story.reserve(10_000)
    story.acknowledge(10_001, bill, (1, 750, 0))
    assert story.left() == 950
    story.refresh(10_002, (-1, 1000, -1), (0, 0, 0), (0, 20_000, 0))
    assert story.left() == 1000


def test_zion_begins_a_period_before_our_clock_does() -> None:
    """A low value close to the end may be the next period's, and must not be forgotten when we begin it."""
    story = Story((-1, 1000, -1), (0, 700, 0), (0, 10_000, 0))
    story.acknowledge(9_000, story.spend(9_000, 100), (1, 100, 0))
    assert story.left() == 200
    story.reserve(10_000)
    assert story.left() == 900


def test_zion_tells_of_the_next_period_before_our_clock_does() -> None:
    """Then that one is in force, and an older answer that arrives later changes nothing."""
    story = Story((-1, 1000, -1), (0, 700, 0), (0, 10_000, 0))
    seq = story.account.seq
    story.refresh(9_000, (-1, 1000, -1), (0, 5, 0), (0, 20_000, 0), seq=seq)
    assert story.left() == 995
    story.refresh(9_001, (-1, 1000, -1), (0, 700, 0), (0, 10_000, 0), seq=seq)
    story.reserve(11_000)
    assert story.left() == 995


def test_zion_that_still_speaks_of_the_old_period_is_asked_again() -> None:
    """Its `used` does not count, it is asked after 5 s and then less and less often, and believed after an hour."""
    limit, used, ends = (-1, 1000, -1), (0, 1000, 0), (0, 10_000, 0)
    story = Story(limit, used, ends)
    assert not story.reserve(9_999, 1).admitted
    asked = []
    for second in range(10, 700):
        verdict = story.reserve(second * 1000, 0)
        assert verdict.admitted
        if verdict.refresh:
            asked.append(second)
            story.refresh(second * 1000, limit, used, ends)
            assert story.left() == 1000
    assert asked[:3] == [10, 15, 20]
    assert len(asked) < 12
    story.refresh(10_000 + HOUR_MS, limit, used, ends)
    assert story.left() == 0


def test_a_period_that_was_over_before_we_knew_is_zions_affair() -> None:
    """A fixed end in the past: `used` counts, and Zion is asked as rarely as always."""
    story = Story((-1, 1000, -1), (0, 900, 0), (0, -30 * 24 * HOUR_MS, 0))
    assert story.left() == 100
    assert not story.reserve(FRESH_MS - 1).refresh
    assert story.reserve(FRESH_MS).refresh


def test_each_metric_has_its_own_period() -> None:
    """Daily requests start again while monthly tokens stay used up."""
    story = Story((10, 1000, -1), (10, 1000, 0), (10_000, 10**9, 0))
    assert not story.reserve(0).admitted
    assert story.reserve(10_000).admitted
    blocker = story.reserve(10_000, 1).blocker
    assert blocker is not None
    assert (blocker.metric, blocker.wait_ms) == ("ai_input_tokens", 10**9 - 10_000)


@pytest.mark.parametrize(("ends", "wait"), [(60_000, 60_000), (0, None)])
def test_the_wait_for_a_quota_is_the_end_of_its_period(ends: int, wait: int | None) -> None:
    """A subscription that never resets has no such moment."""
    blocker = Story((-1, 10, -1), (0, 10, 0), (0, ends, 0)).reserve(0, 1).blocker
    assert blocker is not None
    assert blocker.limit_type == "quota"
    assert blocker.wait_ms == wait


def test_two_quotas_are_both_waited_for() -> None:
    """The one that returns last is told."""
    blocker = Story((1, 10, -1), (1, 10, 0), (60_000, 90_000, 0)).reserve(0, 1).blocker
    assert blocker is not None
    assert (blocker.metric, blocker.wait_ms) == ("ai_input_tokens", 90_000)


def test_tokens_that_are_only_reserved_are_waited_for_briefly() -> None:
    """What requests in flight hold comes back long before the period ends."""
    story = Story((-1, -1, 100), ends=(0, 0, 10**9))
    assert story.reserve(0, 0, 100).granted_output == 100
    verdict = ledger.reserve(story.account, POLICY, ask_of(9, 0, 1), START_MS)
    assert verdict.blocker is not None
    assert (verdict.blocker.limit_type, verdict.blocker.wait_ms) == ("quota", 1000)


def test_limits_serve_beyond_their_time_to_live_but_not_for_ever() -> None:
    """Stale, they serve and are asked for by one caller at a time; past the grace nothing is known."""
    story = Story((-1, 1000, -1))
    fresh, stale = story.reserve(FRESH_MS - 1), story.reserve(FRESH_MS)
    assert (fresh.stale, fresh.refresh, stale.stale, stale.refresh) == (False, False, True, True)
    assert not story.reserve(FRESH_MS + 4_999).refresh
    assert story.reserve(FRESH_MS + 5_000).refresh
    assert story.reserve(FRESH_MS + HOUR_MS - 1).quota_known
    assert not story.reserve(FRESH_MS + HOUR_MS).quota_known


def test_an_unknown_account_asks_for_limits() -> None:
    """Nothing is decided before Zion has said something."""
    verdict = ledger.reserve(Account(), POLICY, ask_of(1), START_MS)
    assert (verdict.admitted, verdict.quota_known, verdict.refresh) == (False, False, True)


def test_output_is_lowered_to_what_is_left() -> None:
    """The request passes with less, unless nothing is left for each of its choices."""
    story = Story((-1, -1, 100), (0, 0, 40))
    verdict = story.reserve(0, 0, 2**31 - 1)
    assert (verdict.granted_output, verdict.output_is_limited) == (60, True)
    for least in (1, 2):
        assert not ledger.reserve(story.account, POLICY, ask_of(50 + least, 0, 10, least=least), START_MS).admitted


def test_fewer_tokens_than_choices_are_of_no_use() -> None:
    """Three choices need three tokens."""
    story = Story((-1, -1, 2))
    assert not ledger.reserve(story.account, POLICY, ask_of(1, 0, 30, least=3), START_MS).admitted
    assert ledger.reserve(story.account, POLICY, ask_of(2, 0, 30, least=2), START_MS).granted_output == 2


def test_an_open_end_takes_a_fair_share() -> None:
    """A request without a bound takes its share or a quarter of what is left, so that others pass beside it."""
    story = Story((-1, -1, 100_000))
    grants = [ledger.reserve(story.account, POLICY, ask_of(n, 0, 128_000, fair=4096), START_MS) for n in range(4)]
    assert [verdict.granted_output for verdict in grants] == [25_000, 18_750, 14_062, 10_547]
    small = Story((-1, -1, 5000))
    assert ledger.reserve(small.account, POLICY, ask_of(1, 0, 128_000, fair=4096), START_MS).granted_output == 4096


def test_limits_that_were_asked_for_before_an_account_was_known_are_taken() -> None:
    """There is nothing yet that could be newer."""
    account = Account()
    ledger.refresh(account, POLICY, Quota((-1, 1000, -1), (0, 100, 0)), 7, START_MS)
    assert account.left(1) == 900

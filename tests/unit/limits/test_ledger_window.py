"""The sliding window is strict, nearly all of it is usable, and it says truly when a request will fit."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel.limits import ledger
from sentinel.limits.account import Account
from sentinel.limits.policy import SLICES, Cost, Policy, Reservation, Verdict
from tests.support.arrivals import NO_QUOTA, START_MS, Arrive, History, Step, ask_of, policy_of, stories

WINDOWS_SECONDS = [1, 7, 60, 3600]
LIMITS = {"ai_requests": 5, "ai_input_tokens": 100, "ai_output_tokens": 150}


@dataclass
class Twin:
    """The rule in Python as the ledger of a History."""

    policy: Policy
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        ledger.refresh(self.account, self.policy, NO_QUOTA, 0, 1)

    def reserve(self, ask: Reservation, now_ms: int) -> Verdict:
        return ledger.reserve(self.account, self.policy, ask, now_ms)

    def settle(self, ask: Reservation, spent: Cost, started_ms: int, now_ms: int) -> object:
        return ledger.settle(self.account, self.policy, ask, spent, now_ms)

    def extend(self, ask: Reservation, held: int, more: int, started_ms: int, now_ms: int) -> int:
        holds = ledger.extend(self.account, self.policy, replace(ask, output_tokens=held), more, 0, now_ms)
        assert holds is not None
        return holds - held


def history(seconds: int) -> History:
    """A new account under all three windows."""
    return History(Twin(policy_of(*((name, limit, seconds) for name, limit in LIMITS.items()))))


@pytest.mark.parametrize("seconds", WINDOWS_SECONDS)
@settings(max_examples=100)
@given(data=st.data())
def test_no_interval_holds_more_than_the_limit(seconds: int, data: st.DataObject) -> None:
    """Whatever arrives when, is extended and settled: every interval of the window's length keeps every limit."""
    played = history(seconds)
    played.play(data.draw(stories(seconds)))
    for dimension, limit in enumerate(LIMITS.values()):
        assert played.most(dimension, seconds * 1000) <= limit


@settings(max_examples=100)
@given(before=stories(60), behind_ms=st.integers(1, 200_000), after=stories(60))
def test_a_clock_that_goes_back_admits_no_more(
    before: list[tuple[int, Step]], behind_ms: int, after: list[tuple[int, Step]]
) -> None:
    """Another node takes over whose clock is behind: in real time the limits hold all the same."""
    played = history(60)
    played.play(before)
    played.behind_ms = behind_ms
    played.play(after)
    for dimension, limit in enumerate(LIMITS.values()):
        assert played.most(dimension, 60_000) <= limit


@pytest.mark.parametrize("behind_ms", [1, 5_000, 90_000, 365 * 86_400_000])
def test_a_clock_that_goes_back_locks_nobody_out(behind_ms: int) -> None:
    """However far it goes back, the user waits for one window at most, though they keep asking meanwhile."""
    played = history(60)
    while played.arrive(Arrive(0, 0)).admitted:
        pass
    played.behind_ms = behind_ms
    for _ in range(SLICES + 1):
        assert not played.arrive(Arrive(0, 0)).admitted
        played.now_ms += 1000
    assert played.arrive(Arrive(0, 0)).admitted


@pytest.mark.parametrize("seconds", [1, 2, 7, 60, 3600])
@pytest.mark.parametrize(("limit", "cost", "demand"), [(60, 1, 1.1), (100, 1, 5), (1000, 10, 3), (7, 1, 50)])
def test_nearly_all_of_the_limit_is_usable(seconds: int, limit: int, cost: int, demand: float) -> None:
    """Under constant demand, above the limit and in every slice, at least 58/60 of the limit is admitted."""
    twin, windows = Twin(policy_of(("ai_input_tokens", limit, seconds))), 12
    step_ms = seconds * 1000 * cost / limit / demand
    moments = [START_MS + round(n * step_ms) for n in range(round(windows * seconds * 1000 / step_ms))]
    admitted = sum(twin.reserve(ask_of(n, cost), moment).admitted for n, moment in enumerate(moments))
    assert admitted * cost >= windows * limit * 58 / 60


@pytest.mark.parametrize("seconds", WINDOWS_SECONDS)
@settings(max_examples=100)
@given(data=st.data())
def test_the_wait_is_the_first_moment_that_fits(seconds: int, data: st.DataObject) -> None:
    """A refused request is admitted after its wait; a slice earlier and a millisecond earlier it is not."""
    played = history(seconds)
    played.play(data.draw(stories(seconds)))
    account = played.ledger.account  # type: ignore[attr-defined]
    refused = ask_of(0, data.draw(st.integers(0, 110)), data.draw(st.integers(0, 200)))
    verdict = ledger.reserve(account, played.ledger.policy, refused, played.now_ms)  # type: ignore[attr-defined]
    if verdict.blocker is None or verdict.blocker.wait_ms is None:
        assert verdict.admitted or refused.input_tokens > LIMITS["ai_input_tokens"]
        return
    wait = verdict.blocker.wait_ms
    assert 0 < wait <= seconds * 1000 * (SLICES + 1) / SLICES + 1
    for early in (1, seconds * 1000 // SLICES):
        if early < wait:
            before = ledger.reserve(account, played.ledger.policy, refused, played.now_ms + wait - early)  # type: ignore[attr-defined]
            assert not before.admitted
            assert before.blocker is not None
            assert before.blocker.wait_ms == early
    assert ledger.reserve(account, played.ledger.policy, refused, played.now_ms + wait).admitted  # type: ignore[attr-defined]


@given(story=stories(60), hammer=st.lists(st.integers(0, 3000), max_size=40))
@settings(max_examples=100)
def test_hammering_while_refused_changes_nothing(story: list[tuple[int, Step]], hammer: list[int]) -> None:
    """Refused requests, however many, do not put off the moment at which one is admitted."""
    played = history(60)
    played.play(story)
    while (verdict := played.arrive(Arrive(1, 1))).admitted:
        pass
    assert verdict.blocker is not None
    assert verdict.blocker.wait_ms is not None
    fits_ms = played.now_ms + verdict.blocker.wait_ms
    for wait in hammer:
        if played.now_ms + wait < fits_ms:
            played.now_ms += wait
            assert not played.arrive(Arrive(1, 1)).admitted
    played.now_ms = fits_ms
    assert played.arrive(Arrive(1, 1)).admitted


def test_all_dimensions_or_none() -> None:
    """A request that one window refuses leaves no trace in the others."""
    twin = Twin(policy_of(("ai_requests", 100, 60), ("ai_input_tokens", 50, 60)))
    assert twin.reserve(ask_of(1, 50), START_MS).admitted
    for n in range(10):
        assert not twin.reserve(ask_of(2 + n, 1), START_MS).admitted
    verdict = twin.reserve(ask_of(20, 0), START_MS)
    assert verdict.admitted
    assert list(verdict.windows[::2]) == [98, 0]


def test_what_never_fits_is_told_so() -> None:
    """A request larger than the whole window has no moment at which it would fit."""
    verdict = Twin(policy_of(("ai_input_tokens", 50, 60))).reserve(ask_of(1, 51), START_MS)
    assert verdict.blocker is not None
    assert verdict.blocker.wait_ms is None


def test_the_longest_of_several_waits_is_told() -> None:
    """Two full windows: the request fits when both have room."""
    twin = Twin(policy_of(("ai_requests", 2, 1), ("ai_requests", 3, 60)))
    assert twin.reserve(ask_of(1), START_MS).admitted
    assert twin.reserve(ask_of(2), START_MS + 30_000).admitted
    assert twin.reserve(ask_of(3), START_MS + 30_000).admitted
    blocker = twin.reserve(ask_of(4), START_MS + 30_000).blocker
    assert blocker is not None
    assert (blocker.limit, blocker.wait_ms) == (3, 31_000)


def test_concurrency_is_given_back() -> None:
    """Slots are taken at admission and given back by settling, whatever was spent."""
    twin = Twin(policy_of(concurrency=2))
    first, second = (twin.reserve(ask_of(n), START_MS) for n in (1, 2))
    assert (first.concurrency_remaining, second.concurrency_remaining) == (1, 0)
    refused = twin.reserve(ask_of(3), START_MS)
    assert refused.blocker is not None
    assert (refused.blocker.metric, refused.blocker.used, refused.blocker.limit) == ("concurrency", 2, 2)
    twin.settle(ask_of(1), Cost(0, 0, 0), START_MS, START_MS)
    assert twin.reserve(ask_of(3), START_MS).admitted


def test_what_a_stream_did_not_use_comes_back_where_it_was_taken() -> None:
    """The output that an extension took is given back to the extension's slice, not to another request's."""
    twin = Twin(policy_of(("ai_output_tokens", 1000, 60)))
    assert twin.reserve(ask_of(1, 0, 100), START_MS).granted_output == 100
    assert twin.reserve(ask_of(2, 0, 300), START_MS).granted_output == 300
    assert twin.extend(ask_of(1), 100, 500, START_MS, START_MS + 30_000) == 500
    twin.settle(ask_of(1), Cost(1, 0, 150), START_MS, START_MS + 40_000)
    probe = twin.reserve(ask_of(3, 0, 1000), START_MS + 40_000)
    assert probe.granted_output == 1000 - 300 - 150
    twin.settle(ask_of(3), Cost(0, 0, 0), START_MS, START_MS + 40_000)
    # 400 of the first slice have gone by now, the 50 of the extension have not.
    assert twin.reserve(ask_of(4, 0, 1000), START_MS + 61_000).granted_output == 950


def test_a_view_tells_what_remains_of_each_window_and_changes_nothing() -> None:
    """And when the last of what it holds will have left; an empty one is free at once."""
    twin = Twin(policy_of(("ai_requests", 5, 60), ("ai_output_tokens", 150, 60)))
    empty = ledger.view(twin.account, twin.policy, START_MS)
    assert empty.windows == (5, START_MS, 150, START_MS)
    twin.reserve(ask_of(1, 0, 100), START_MS)
    gone_ms = twin.policy.windows[0].gone_ms(twin.policy.windows[0].slice_of(START_MS))
    for _ in range(2):
        assert ledger.view(twin.account, twin.policy, START_MS + 1).windows == (4, gone_ms, 50, gone_ms)

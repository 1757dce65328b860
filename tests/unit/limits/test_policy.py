"""What the operator's settings become, and how the script's answer is read."""

from __future__ import annotations

import pytest

from sentinel.config import parse_rate_limits
from sentinel.limits.policy import SLICES, Policy, Window, verdict_of


def policy(rates: str, share: int = 1) -> Policy:
    return Policy.of(parse_rate_limits(rates), lease_seconds=30, fresh_seconds=300, stale_seconds=3600, share=share)


def test_rates_become_windows() -> None:
    """Dimension, limit and length, under a name of their own; concurrency beside them."""
    made = policy("ai_requests=100/60s,ai_requests=2000/1h,ai_input_tokens=200000/60s,concurrency=20")
    assert made.windows == (
        Window("ai_requests/60", 0, 100, 60_000),
        Window("ai_requests/3600", 0, 2000, 3_600_000),
        Window("ai_input_tokens/60", 1, 200_000, 60_000),
    )
    assert (made.concurrency, made.lease_ms, made.fresh_ms, made.stale_ms) == (20, 30_000, 300_000, 3_600_000)


def test_no_rates_limit_nothing() -> None:
    """No window, no concurrency; the scripts are told so, too."""
    made = policy("")
    assert (made.windows, made.concurrency) == ((), None)
    assert "windows={},concurrency=-1," in made.lua()


def test_a_share_is_rounded_down() -> None:
    """All replicas together never exceed the limit."""
    made = policy("ai_requests=100/60s,concurrency=20", share=3)
    assert (made.windows[0].limit, made.concurrency) == (33, 6)


@pytest.mark.parametrize(("rates", "days"), [("", 7), ("ai_requests=1/60s", 7), ("ai_requests=1/31d", 62)])
def test_an_account_outlives_its_longest_window(rates: str, days: int) -> None:
    """An idle user's window is not forgotten before it has passed."""
    assert policy(rates).account_ttl_ms == days * 86_400_000


@pytest.mark.parametrize("window_ms", [1000, 7000, 60_000, 31 * 86_400_000])
@pytest.mark.parametrize("moment", [1_800_000_000_000, 1_800_000_000_001, 1_899_999_999_999])
def test_a_slice_is_gone_when_all_it_holds_is_older_than_the_window(window_ms: int, moment: int) -> None:
    """Not a millisecond sooner, and within one slice more than the window."""
    window = Window("w", 0, 1, window_ms)
    gone = window.gone_ms(window.slice_of(moment))
    assert window.slice_of(gone) > window.slice_of(moment) + SLICES >= window.slice_of(gone - 1)
    assert window_ms < gone - moment <= window_ms * (SLICES + 1) / SLICES + 1


def test_a_refusal_names_its_blocker() -> None:
    """Window, concurrency and quota are told apart; a wait of -1 is none."""
    rates = policy("ai_input_tokens=50/60s,concurrency=2")
    head = [1, 0, 0, 0, 0, 0, 0, -1, 7, 0, 0, 10, 1_000]
    blockers = [
        verdict_of((*head, *fields), rates).blocker
        for fields in ([5, 1, 1, 50, 50, 0, 9], [1000, 2, 0, 2, 2, 0, 9], [-1, 3, 3, 70, 70, 0, 0])
    ]
    assert [(b.limit_type, b.metric, b.wait_ms) for b in blockers if b] == [
        ("window", "ai_input_tokens", 5),
        ("concurrency", "concurrency", 1000),
        ("quota", "ai_output_tokens", None),
    ]


def test_a_window_is_known_by_its_dimension_and_length() -> None:
    """A limit may change while an account lives; what was spent in the window stays spent."""
    ids = [policy(rates).windows[0].id for rates in ("ai_requests=1/60s", "ai_requests=9/1m", "ai_requests=1/61s")]
    assert ids[0] == ids[1] != ids[2]

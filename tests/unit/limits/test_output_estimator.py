"""Typical outputs are learned quickly, follow changes, and take bounded memory."""

from __future__ import annotations

import random
import tracemalloc

from sentinel.limits.output_estimator import ENOUGH, REMEMBERED, OutputEstimator


def test_the_default_serves_until_enough_is_known() -> None:
    """A few answers are no rule."""
    typical = OutputEstimator(4096)
    for _ in range(ENOUGH):
        assert typical.tokens("ana", "gpt-4o") == 4096
        typical.note("ana", "gpt-4o", 100)
    assert typical.tokens("ana", "gpt-4o") == 100


def test_nine_in_ten_answers_stay_within() -> None:
    """The estimate is a ninth decile, whatever the order."""
    typical = OutputEstimator(4096)
    lengths = list(range(10, 10 + REMEMBERED * 10, 10))
    random.Random(1).shuffle(lengths)
    for length in lengths:
        typical.note("ana", "gpt-4o", length)
    assert sum(length <= typical.tokens("ana", "gpt-4o") for length in lengths) == REMEMBERED * 9 // 10


def test_a_single_giant_changes_little() -> None:
    """One answer in ten may be of any length."""
    typical = OutputEstimator(4096)
    for length in [100] * 19 + [100_000]:
        typical.note("ana", "gpt-4o", length)
    assert typical.tokens("ana", "gpt-4o") == 100


def test_users_and_models_are_kept_apart() -> None:
    """What one user does with one model says nothing about others."""
    typical = OutputEstimator(4096)
    for _ in range(ENOUGH):
        typical.note("ana", "gpt-4o", 50)
    assert (typical.tokens("bo", "gpt-4o"), typical.tokens("ana", "gpt-4")) == (4096, 4096)


def test_a_user_whose_work_changes_is_followed() -> None:
    """The old answers are forgotten after as many new ones."""
    typical = OutputEstimator(4096)
    for length in [50] * 100 + [3000] * REMEMBERED:
        typical.note("ana", "gpt-4o", length)
    assert typical.tokens("ana", "gpt-4o") == 3000


def test_the_default_is_the_most() -> None:
    """A longer answer extends its reservation: what an operator set is not exceeded."""
    typical = OutputEstimator(4096)
    for _ in range(REMEMBERED):
        typical.note("ana", "gpt-4o", 50_000)
    assert typical.tokens("ana", "gpt-4o") == 4096


def test_empty_answers_reserve_something() -> None:
    """A reservation of nothing would be a refusal."""
    typical = OutputEstimator(4096)
    for _ in range(ENOUGH):
        typical.note("ana", "gpt-4o", 0)
    assert typical.tokens("ana", "gpt-4o") == 1


def test_the_pair_not_heard_of_for_longest_is_forgotten_first() -> None:
    """At most so many pairs are known."""
    typical = OutputEstimator(4096, most_pairs=2)
    for user in ["ana"] * ENOUGH + ["bo"] * ENOUGH + ["ana"] + ["cy"] * ENOUGH:
        typical.note(user, "gpt-4o", 7)
    assert [typical.tokens(user, "gpt-4o") for user in ("ana", "bo", "cy")] == [7, 4096, 7]


def test_memory_is_bounded() -> None:
    """Ten times as many pairs as may be known take what the known ones take, about half a kilobyte each."""
    typical = OutputEstimator(4096, most_pairs=500)
    tracemalloc.start()
    for user in range(5000):
        for _ in range(REMEMBERED):
            typical.note(f"user-{user}", "gpt-4o-mini", 500)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 500 * 700

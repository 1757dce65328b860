"""Which model of a tier is chosen, and which is left alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sentinel.governance.tiers import TierHealth, TierModel, higher, pick

CHEAP, DEAR = TierModel("openai", "cheap", 1), TierModel("openai", "dear", 5)


def test_cheaper_ones_come_more_often() -> None:
    """Costs of 1 and 5 give 5 to 1; a cost of 0 counts as 1."""
    chance = random.Random(7).random
    found = Counter(pick([CHEAP, DEAR], chance).model for _ in range(6000))
    assert 4.3 < found["cheap"] / found["dear"] < 5.8
    free = TierModel("openai", "free", 0)
    assert 0.8 < Counter(pick([free, CHEAP], chance).model for _ in range(6000))["free"] / 3000 < 1.2


@pytest.mark.parametrize(("chance", "model"), [(0.0, CHEAP), (0.99, DEAR), (1.0, DEAR)])
def test_chances_at_the_ends(chance: float, model: TierModel) -> None:
    """One is always found."""
    assert pick([CHEAP, DEAR], lambda: chance) == model
    assert pick([CHEAP], lambda: chance) == CHEAP


def test_tiers_have_an_order() -> None:
    """A conversation goes up, never down."""
    assert higher("simple", "moderate") == higher("moderate", "simple") == "moderate"
    assert higher("complex", "moderate") == "complex"


def test_failures_double_the_rest() -> None:
    """30 s, then twice as long each time, 300 s at most; what serves is well at once."""
    health, now = TierHealth(), 1000.0
    assert health.rests_until(CHEAP) == 0
    for seconds in (30, 60, 120, 240, 300, 300):
        health.failed(CHEAP, now)
        assert health.rests_until(CHEAP) == now + seconds
    assert health.rests_until(DEAR) == 0
    health.served(CHEAP)
    assert health.rests_until(CHEAP) == 0
    health.failed(CHEAP, now)
    assert health.rests_until(CHEAP) == now + 30

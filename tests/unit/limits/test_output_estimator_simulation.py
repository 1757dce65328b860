"""What learning is good for, measured by bench/simulate_reservations.py."""

from __future__ import annotations

import pytest

from bench.simulate_reservations import LOADS, Fixed, Load, simulate
from sentinel.limits.output_estimator import OutputEstimator


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_learned_reservations_starve_no_more_than_the_default(load: Load) -> None:
    """Whatever the answers: no more is reserved, and no more streams are refused or cut short."""
    fixed, learned = simulate(load, Fixed()), simulate(load, OutputEstimator(4096))
    assert learned.waste <= fixed.waste * 1.02
    assert learned.starved <= fixed.starved + 0.005


@pytest.mark.parametrize("load", [load for load in LOADS if len(load.models) == 1 and "short" in load.name])
def test_short_answers_are_no_longer_starved(load: Load) -> None:
    """Of a user whose answers are short a fifth of what was reserved is reserved, and few streams are refused."""
    fixed, learned = simulate(load, Fixed()), simulate(load, OutputEstimator(4096))
    assert learned.waste < fixed.waste / 5
    assert learned.starved < fixed.starved / 4


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_learned_reservations_are_seldom_extended(load: Load) -> None:
    """Reserving next to nothing would starve nobody either, but costs calls, and streams that are cut short."""
    small, learned = simulate(load, Fixed(256)), simulate(load, OutputEstimator(4096))
    assert learned.extensions <= small.extensions
    assert learned.cut <= max(small.cut, 20)

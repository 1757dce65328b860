"""Wrong keys and tokens of one address."""

from __future__ import annotations

from sentinel.governance.service.failures import Failures


def test_beyond_the_limit_an_address_waits_for_the_end_of_its_window() -> None:
    """And no other address does."""
    failures = Failures(2, 60.0)
    assert [failures.wait_seconds("a", now) for now in (0.0, 1.0, 2.0, 59.0)] == [0.0, 0.0, 58.0, 1.0]
    assert failures.wait_seconds("b", 59.0) == 0.0
    assert failures.wait_seconds("a", 60.0) == 0.0


def test_memory_is_bounded() -> None:
    """Of many addresses those are forgotten that failed longest ago."""
    failures = Failures(1, 60.0)
    for number in range(10_001):
        failures.wait_seconds(str(number), 0.0)
    assert failures.wait_seconds("0", 1.0) == 0.0
    assert failures.wait_seconds("10000", 1.0) == 59.0

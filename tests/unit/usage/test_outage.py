"""Whether an item is refused, or everything."""

from __future__ import annotations

from sentinel.usage.outage import OUTAGE_SECONDS, OutageDetector


def test_one_user_who_is_refused_is_at_fault() -> None:
    """However often, and whoever passes or does not."""
    detector = OutageDetector()
    for now in range(5):
        detector.refused("ana", now)
    assert not detector.is_outage(5)


def test_several_users_who_are_refused_are_not() -> None:
    """As long as nobody passes, but for an hour at most."""
    detector = OutageDetector()
    detector.refused("ana", 10)
    detector.refused("bo", 20)
    detector.refused("cy", 30)
    assert detector.is_outage(30)
    assert detector.is_outage(10 + OUTAGE_SECONDS - 1)
    assert not detector.is_outage(10 + OUTAGE_SECONDS)


def test_somebody_who_passes_ends_it() -> None:
    """Then it is their own fault, until it looks like an outage again."""
    detector = OutageDetector()
    detector.refused("ana", 10)
    detector.refused("bo", 20)
    detector.passed()
    assert not detector.is_outage(21)
    detector.refused("ana", 22)
    assert not detector.is_outage(22)
    detector.refused("bo", 23)
    assert detector.is_outage(22 + OUTAGE_SECONDS - 1)

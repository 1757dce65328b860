"""Periods by the calendar."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.service.periods import FIRST_DAY, KINDS, PeriodKind, day_of, period_at, period_of


@pytest.mark.parametrize(
    ("kind", "day", "start", "next_start"),
    [
        ("daily", date(2026, 12, 31), date(2026, 12, 31), date(2027, 1, 1)),
        ("weekly", date(2026, 11, 29), date(2026, 11, 23), date(2026, 11, 30)),
        ("weekly", date(2026, 11, 30), date(2026, 11, 30), date(2026, 12, 7)),
        ("monthly", date(2024, 2, 29), date(2024, 2, 1), date(2024, 3, 1)),
        ("monthly", date(2026, 12, 1), date(2026, 12, 1), date(2027, 1, 1)),
        ("never", date(2026, 12, 1), FIRST_DAY, None),
    ],
)
def test_periods_begin_by_the_calendar(kind: PeriodKind, day: date, start: date, next_start: date | None) -> None:
    """Weeks on Monday, months on day 1."""
    period = period_of(kind, day)
    assert (period.start, period.next_start) == (start, next_start)


@given(st.dates(min_value=FIRST_DAY, max_value=date(2200, 1, 1)), st.sampled_from(KINDS))
def test_each_day_is_in_its_period_and_in_no_other(day: date, kind: PeriodKind) -> None:
    """What begins next begins with the first day that is not in it."""
    period = period_of(kind, day)
    assert period.has(day)
    if period.next_start is not None:
        assert not period.has(period.next_start)
        assert period_of(kind, period.next_start).start == period.next_start


def test_the_moments_that_proxies_are_told() -> None:
    """The first moment, and the last second; none of either where it never ends."""
    period = period_at("monthly", int(datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC).timestamp() * 1000))
    assert period.start_moment == datetime(2026, 2, 1, tzinfo=UTC)
    assert period.last_second == datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    ever = period_of("never", date(2026, 1, 1))
    assert (ever.start_moment, ever.last_second) == (None, None)


def test_a_day_ends_with_its_last_millisecond() -> None:
    """In UTC, wherever the machine is."""
    midnight = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000)
    assert (day_of(midnight - 1), day_of(midnight)) == (date(2026, 2, 28), date(2026, 3, 1))

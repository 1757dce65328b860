"""Periods and limits of Zion's users."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sentinel.dev.accounts import ResetPeriod, SimUser, calendar_period, limits_one, limits_three

NOW = datetime(2026, 2, 18, 10, 20, 30, tzinfo=UTC)  # A Wednesday.


@pytest.mark.parametrize(
    ("reset", "start", "end"),
    [
        ("DAILY", datetime(2026, 2, 18, tzinfo=UTC), datetime(2026, 2, 18, 23, 59, 59, tzinfo=UTC)),
        ("WEEKLY", datetime(2026, 2, 16, tzinfo=UTC), datetime(2026, 2, 22, 23, 59, 59, tzinfo=UTC)),
        ("MONTHLY", datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)),
        ("NEVER", None, None),
    ],
)
def test_periods(reset: ResetPeriod | None, start: datetime | None, end: datetime | None) -> None:
    """Periods follow the calendar in UTC."""
    period = calendar_period(reset, NOW)
    assert (period.start, period.end) == (start, end)


def test_december_ends_with_the_year() -> None:
    """The month after December is January."""
    assert calendar_period("MONTHLY", datetime(2026, 12, 31, tzinfo=UTC)).end == datetime(
        2026, 12, 31, 23, 59, 59, tzinfo=UTC
    )


def test_a_new_period_starts_at_zero() -> None:
    """Usage is forgotten when its period is over, and not before."""
    user = SimUser("u", "a@b", used={"ai_requests": 5, "ai_input_tokens": 1, "ai_output_tokens": 1})
    user.start_period(NOW)
    user.roll(NOW)
    assert user.used["ai_requests"] == 5
    user.roll(datetime(2026, 3, 1, tzinfo=UTC))
    assert user.used["ai_requests"] == 0
    assert user.period_start == datetime(2026, 3, 1, tzinfo=UTC)


def test_shapes() -> None:
    """Both shapes tell the same numbers; remaining may be negative, unlimited is null, an unknown metric is absent."""
    user = SimUser("u", "a@b", limits={"ai_requests": 10, "ai_input_tokens": None}, reset_period="MONTHLY")
    user.used["ai_requests"] = 13
    user.start_period(NOW)
    (one,) = limits_one(user)
    assert one["name"] == "ai_usage"
    assert one["aiRequests"] == {"limit": 10, "used": 13, "remaining": -3}
    assert one["aiInputTokens"] == {"limit": None, "used": 0, "remaining": None}
    assert "aiOutputTokens" not in one
    assert one["periodEnd"] == "2026-02-28T23:59:59Z"
    three = {element["name"]: element for element in limits_three(user)}
    assert set(three) == {"ai_requests", "ai_input_tokens"}
    assert three["ai_requests"]["remaining"] == -3
    assert three["ai_requests"]["periodStart"] == "2026-02-01T00:00:00Z"

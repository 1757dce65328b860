"""Periods by the calendar, in UTC: days from midnight, weeks from Monday, months from day 1, or none. Decides.

Source: contract 1.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal, get_args

PeriodKind = Literal["daily", "weekly", "monthly", "never"]
KINDS: tuple[PeriodKind, ...] = get_args(PeriodKind)

FIRST_DAY = date(2000, 1, 1)
"""No usage is older."""


@dataclass(frozen=True, slots=True)
class Period:
    """Its first day, and the first day of the next one; None where it never ends."""

    kind: PeriodKind
    start: date
    next_start: date | None

    def has(self, day: date) -> bool:
        """Whether this day belongs to it."""
        return self.start <= day and (self.next_start is None or day < self.next_start)

    @property
    def start_moment(self) -> datetime | None:
        """Its first moment; None where it has always been."""
        return None if self.next_start is None else _midnight(self.start)

    @property
    def last_second(self) -> datetime | None:
        """The last second that belongs to it, as Zion tells the end of a period."""
        return None if self.next_start is None else _midnight(self.next_start) - timedelta(seconds=1)


@lru_cache(64)  # Of a report many items ask for the same.
def period_at(kind: PeriodKind, now_ms: int) -> Period:
    """The period of this kind that a moment (milliseconds since the epoch) lies in."""
    return period_of(kind, day_of(now_ms))


def period_of(kind: PeriodKind, day: date) -> Period:
    """The period of this kind that a day belongs to."""
    if kind == "daily":
        return Period(kind, day, day + timedelta(days=1))
    if kind == "weekly":
        monday = day - timedelta(days=day.weekday())
        return Period(kind, monday, monday + timedelta(days=7))
    if kind == "monthly":
        first = day.replace(day=1)
        return Period(kind, first, (first + timedelta(days=32)).replace(day=1))
    return Period(kind, FIRST_DAY, None)


@lru_cache(64)
def day_of(ms: int) -> date:
    """The day, in UTC, of a moment in milliseconds since the epoch."""
    return datetime.fromtimestamp(ms / 1000, UTC).date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)

"""Items of usage reports, read strictly: what cannot be booked exactly is refused, and the field named. Decides.

Source: contract 1.4, 1.5; `costMicroUsd` is an extension.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sentinel.governance.service.periods import FIRST_DAY, day_of

MOST_ITEMS = 1_000
MOST_AMOUNT = 10**12
"""Of one item. Nine thousand such items are as much as can be booked (ledger.MOST_BOOKED)."""
MOST_MODEL_CHARS = 256
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_AHEAD = timedelta(days=1)
"""A proxy's clock may be wrong, but a day that is yet to come is none of its."""

WIRE_AMOUNTS = {
    "aiRequests": "requests",
    "aiInputTokens": "input_tokens",
    "aiOutputTokens": "output_tokens",
    "costMicroUsd": "cost_micro_usd",
}
"""Names on the wire, and of columns."""

Amounts = tuple[int, int, int, int]
"""Requests, input tokens, output tokens, cost in millionths of a US dollar: as `schema.AMOUNTS`."""


class BadIncrement(ValueError):
    """An item that cannot be booked; its text names the field. email: that it has, empty if none can be read."""

    def __init__(self, text: str, email: str = "") -> None:
        super().__init__(text)
        self.email = email


@dataclass(frozen=True, slots=True)
class Increment:
    """What a user spent on a model. model: empty if not told. day: that it is booked on."""

    email: str
    amounts: Amounts
    model: str
    day: date


def read_increment(item: Any, now_ms: int) -> Increment:
    """Read one item as it came in JSON. now_ms: the moment of one that tells none. Raises BadIncrement."""
    if not isinstance(item, dict):
        raise BadIncrement("an increment must be an object")
    email = item.get("email")
    if not isinstance(email, str) or not email or not _is_text(email):
        raise BadIncrement("email must be a non-empty string")
    try:
        requests, inputs, outputs, cost = (_amount(item, name) for name in WIRE_AMOUNTS)
        return Increment(email, (requests, inputs, outputs, cost), _model(item.get("model")), _day(item, now_ms))
    except BadIncrement as error:
        error.email = email
        raise


def _amount(item: dict[str, Any], name: str) -> int:
    value = item.get(name, 0)
    if type(value) is not int or not 0 <= value <= MOST_AMOUNT:
        raise BadIncrement(f"{name} must be an integer from 0 to {MOST_AMOUNT}")
    return value


def _model(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MOST_MODEL_CHARS or not _is_text(value):
        raise BadIncrement(f"model must be a string of at most {MOST_MODEL_CHARS} characters")
    return value


def _is_text(value: str) -> bool:
    """Whether every database takes it: PostgreSQL has no NUL in a text, and neither has half a surrogate pair."""
    return _NO_TEXT.search(value) is None


def _day(item: dict[str, Any], now_ms: int) -> date:
    value = item.get("timestamp")
    today = day_of(now_ms)
    if value is None:
        return today
    day = _instant(value)
    if day is None or day < FIRST_DAY:
        raise BadIncrement("timestamp must be a moment as RFC 3339 has it, with a zone")
    if day > today + _AHEAD:
        raise BadIncrement("timestamp is in the future")
    return day


def _instant(value: Any) -> date | None:
    try:
        moment = datetime.fromisoformat(value)
        return None if moment.tzinfo is None else moment.astimezone(UTC).date()
    except (TypeError, ValueError, OverflowError):
        return None


def added(one: Amounts, other: Amounts) -> Amounts:
    """The sum of two."""
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


Clock = Callable[[], int]
"""Tells the moment, in milliseconds since the epoch."""

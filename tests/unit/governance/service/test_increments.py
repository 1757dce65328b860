"""Items of usage reports."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.service.increments import MOST_AMOUNT, BadIncrement, Increment, added, read_increment

NOW_MS = int(datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp() * 1000)


def test_an_item_with_everything() -> None:
    """Amounts in the order of the columns."""
    item = {
        "email": "ana@corp.test",
        "aiRequests": 1,
        "aiInputTokens": 31,
        "aiOutputTokens": 7,
        "costMicroUsd": 95,
        "model": "gpt-4o",
        "timestamp": "2026-11-01T00:30:00+01:00",
        "plan": "unknown fields are ignored",
    }
    assert read_increment(item, NOW_MS) == Increment("ana@corp.test", (1, 31, 7, 95), "gpt-4o", date(2026, 10, 31))


def test_what_is_left_out() -> None:
    """Is 0, no model, today."""
    assert read_increment({"email": "a@b"}, NOW_MS) == Increment("a@b", (0, 0, 0, 0), "", date(2026, 11, 29))


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ([], "object"),
        ({}, "email"),
        ({"email": ""}, "email"),
        ({"email": 7}, "email"),
        ({"email": "a\x00@b"}, "email"),
        ({"email": "a@b", "aiRequests": -1}, "aiRequests"),
        ({"email": "a@b", "aiRequests": True}, "aiRequests"),
        ({"email": "a@b", "aiInputTokens": 1.0}, "aiInputTokens"),
        ({"email": "a@b", "aiOutputTokens": MOST_AMOUNT + 1}, "aiOutputTokens"),
        ({"email": "a@b", "costMicroUsd": "1"}, "costMicroUsd"),
        ({"email": "a@b", "model": 7}, "model"),
        ({"email": "a@b", "model": "m" * 257}, "model"),
        ({"email": "a@b", "model": "\ud800"}, "model"),
        ({"email": "a@b", "timestamp": 7}, "timestamp"),
        ({"email": "a@b", "timestamp": "2026-11-29"}, "timestamp"),
        ({"email": "a@b", "timestamp": "2026-11-29T00:00:00"}, "timestamp"),
        ({"email": "a@b", "timestamp": "1999-12-31T00:00:00Z"}, "timestamp"),
        ({"email": "a@b", "timestamp": "0001-01-01T00:00:00+23:59"}, "timestamp"),
        ({"email": "a@b", "timestamp": "2026-12-01T00:00:00Z"}, "timestamp"),
    ],
)
def test_what_cannot_be_booked_names_its_field(item: Any, field: str) -> None:
    """And whose it is, where that can be read."""
    with pytest.raises(BadIncrement, match=field) as refused:
        read_increment(item, NOW_MS)
    assert refused.value.email == ("a@b" if isinstance(item, dict) and item.get("email") == "a@b" else "")


def test_a_clock_that_is_ahead() -> None:
    """By less than a day."""
    item = {"email": "a@b", "timestamp": "2026-11-30T00:00:05Z"}
    assert read_increment(item, NOW_MS).day == date(2026, 11, 30)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)
    | st.dictionaries(
        st.sampled_from(["email", "aiRequests", "aiInputTokens", "costMicroUsd", "model", "timestamp"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("a@b"),
    )
)
def test_nothing_else_comes_of_strange_items(item: Any) -> None:
    """An increment within the bounds, or the one error."""
    try:
        found = read_increment(item, NOW_MS)
    except BadIncrement:
        return
    assert all(0 <= amount <= MOST_AMOUNT for amount in found.amounts)


def test_sums() -> None:
    """One by one."""
    assert added((1, 2, 3, 4), (10, 20, 30, 40)) == (11, 22, 33, 44)

"""Reports of usage that Zion takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel.dev.increments import BadIncrement, Increment, read_batch, read_increment

GOOD = {
    "email": "ana@corp.test",
    "aiInputTokens": 31,
    "aiOutputTokens": 7,
    "aiRequests": 1,
    "model": "gpt-4o",
    "timestamp": "2026-02-03T10:20:30.456Z",
}


def test_a_full_item() -> None:
    """All six fields are read."""
    assert read_increment(GOOD) == Increment("ana@corp.test", 31, 7, 1, "gpt-4o", "2026-02-03T10:20:30.456Z")


def test_a_small_item() -> None:
    """Metrics, model and timestamp may be left out."""
    assert read_increment({"email": "a@b", "aiRequests": 1}) == Increment("a@b", 0, 0, 1, None, None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"email": None}, "email"),
        ({"email": "ana"}, "email"),
        ({"aiRequests": 0}, "aiRequests"),
        ({"aiRequests": -1}, "aiRequests"),
        ({"aiRequests": True}, "aiRequests"),
        ({"aiInputTokens": 1.0}, "aiInputTokens"),
        ({"aiInputTokens": "1"}, "aiInputTokens"),
        ({"aiOutputTokens": None}, "aiOutputTokens"),
        ({"aiOutputTokens": 2**63}, "aiOutputTokens"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"timestamp": "2026-02-03T10:20:30Z"}, "timestamp"),
        ({"timestamp": "2026-02-03T10:20:30.456+00:00"}, "timestamp"),
        ({"timestamp": "2026-02-30T10:20:30.456Z"}, "timestamp"),
        ({"limitName": "ai_usage"}, "limitName"),
        ({"externalId": "x"}, "externalId"),
        ({"amount": 1}, "amount"),
    ],
)
def test_what_is_refused(change: dict[str, Any], named: str) -> None:
    """Every deviation from the contract is refused by name."""
    with pytest.raises(BadIncrement, match=rf"increments\[1\].*{named}"):
        read_batch({"increments": [GOOD, {**GOOD, **change}]})


@pytest.mark.parametrize(
    "body", [None, [], {}, {"increments": []}, {"increments": {}}, {"increments": [1]}, {"increments": [GOOD], "x": 1}]
)
def test_bad_batches(body: Any) -> None:
    """A batch is one list with something in it."""
    with pytest.raises(BadIncrement):
        read_batch(body)


def test_an_item_that_reports_nothing() -> None:
    """An item without metrics is a mistake of the sender."""
    with pytest.raises(BadIncrement, match="nothing"):
        read_increment({"email": "a@b"})

"""How records become items, and what answers of Zion mean."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.clock import rfc3339
from sentinel.usage.batch import (
    MOST_ENTRIES,
    Item,
    Items,
    Outcome,
    Record,
    backoff_seconds,
    outcome_of,
    results_by_item,
)
from sentinel.zion.models import ItemResult


def record(user: str = "ana", model: str = "m", period: int = 0, at_ms: int = 5, entry: str = "1-0") -> Record:
    return Record(3, entry, "req_1", user, f"{user}@x.y", model, (1, 10, 5), period, at_ms)


def test_a_record_is_what_the_script_writes() -> None:
    """Whose it is, what was spent, in which period, and when: by the entry's name where it does not say."""
    who = json.dumps(["req_1", "ana", "ana@x.y", "gpt-4o"]).encode()
    fields = {b"who": who, b"sum": struct.pack("<5d", 1, 12, 7, 2, 0)}
    read = Record.read(3, b"1770000000123-4", fields)
    assert read == Record(3, "1770000000123-4", "req_1", "ana", "ana@x.y", "gpt-4o", (1, 12, 7), 2, 1770000000123)
    fields[b"sum"] = struct.pack("<5d", 1, 12, 7, 2, 42)
    assert Record.read(3, b"1770000000123-4", fields).at_ms == 42


@pytest.mark.parametrize("fields", [{}, {b"who": b"[]"}, {b"who": b"x", b"sum": b""}, {b"x": b"y"}])
def test_what_is_no_record_is_no_record(fields: dict[bytes, bytes]) -> None:
    """Something else in the stream raises what the reader of the stream expects."""
    with pytest.raises((KeyError, ValueError, struct.error)):
        Record.read(3, b"1-0", fields)


def test_one_item_for_each_user_model_and_period() -> None:
    """Sums, and the earliest moment; the new period's usage is not told under the old one's time."""
    items = Items()
    items.add([record(at_ms=9), record(at_ms=7), record(model="n"), record(period=1), record("bo")])
    assert [(item.user, item.model, item.period, item.spent, item.at_ms) for item in items.items] == [
        ("ana", "m", 0, (2, 20, 10), 7),
        ("ana", "n", 0, (1, 10, 5), 5),
        ("ana", "m", 1, (1, 10, 5), 5),
        ("bo", "m", 0, (1, 10, 5), 5),
    ]


def test_an_item_has_no_more_records_than_a_script_can_take() -> None:
    """A longer one becomes two."""
    items = Items()
    items.add(record(entry=f"{n}-0") for n in range(MOST_ENTRIES + 1))
    assert [len(item.entries) for item in items.items] == [MOST_ENTRIES, 1]
    assert not items.items[0].merge(items.items[1])


@given(st.integers(0, 4_102_444_800_000))
def test_moments_are_written_as_zion_wants_them(ms: int) -> None:
    """RFC 3339, UTC, milliseconds, Z."""
    text = rfc3339(ms)
    assert len(text) == 24
    assert text.endswith("Z")
    assert text[19] == "."
    assert int(text[20:23]) == ms % 1000


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.TAKEN) for status in (200, 201, 202, 204)),
        *((status, Outcome.REFUSED) for status in (400, 413, 422)),
        *((status, Outcome.MISSING) for status in (404, 405)),
        *((status, Outcome.LATER) for status in (301, 401, 403, 408, 409, 425, 429, 451, 503)),
        *((status, Outcome.DOUBT) for status in (0, 500, 502, 504, 520)),
    ],
)
def test_statuses(status: int, outcome: Outcome) -> None:
    """What each means for a batch."""
    assert outcome_of(status, says_no=False, is_receipt=True) is outcome


def test_a_no_in_a_yes() -> None:
    """HTTP 200 around `success: false` is a refusal."""
    assert outcome_of(200, says_no=True, is_receipt=False) is Outcome.REFUSED


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_yes_that_is_no_receipt_is_a_doubt(status: int) -> None:
    """Any 2xx may come from something else than Zion."""
    assert outcome_of(status, says_no=False, is_receipt=False) is Outcome.DOUBT


def result(email: str | None, success: bool = True) -> ItemResult:
    return ItemResult(success=success, email=email)


ITEMS = [Item(0, "ana", "a@x", "m", 0), Item(0, "ana", "a@x", "n", 0), Item(0, "bo", "b@x", "m", 0)]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([result("a@x"), result("a@x", False), result("b@x")], [True, False, True]),
        ([result(None), result(None, False), result(None)], [True, False, True]),
        ([result("b@x"), result("a@x", False), result("a@x")], [False, True, True]),
        ([result("a@x", False)], [False, None, None]),
        ([result("b@x", False), result("z@x", False)], [None, None, False]),
        ([], [None, None, None]),
        (None, [None, None, None]),
    ],
)
def test_results_belong_to_items(results: list[ItemResult] | None, expected: list[bool | None]) -> None:
    """By position where they fit, else by e-mail in order; an item of which nothing is said was taken."""
    assert [r.success if r else None for r in results_by_item(ITEMS, results)] == expected


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_pauses_grow_up_to_a_bound(attempts: int, jitter: float) -> None:
    """Half a second to fifteen, never the same for two callers."""
    assert 0.25 <= backoff_seconds(attempts, jitter) <= 15
    assert backoff_seconds(attempts + 1, jitter) >= backoff_seconds(attempts, jitter)

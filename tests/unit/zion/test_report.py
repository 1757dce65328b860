"""What Zion's answers to usage reports mean."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from sentinel.governance.port import Outcome, PlainAnswer, Report
from sentinel.limits.policy import Cost
from sentinel.steps import at_once
from sentinel.zion.report import (
    ItemResult,
    is_envelope,
    is_receipt,
    outcome_of,
    read_answer,
    read_increment,
    report_of,
    results_by_item,
)
from tests.support.memory_governance import plain


class Item(NamedTuple):
    """An item of usage, which the port does not ask to be of a certain class."""

    user: str
    email: str
    model: str
    spent: Cost = Cost(1, 10, 5)
    at_ms: int = 1_770_114_030_456
    cost_micro_usd: int = 0


def answer(data: Any, **envelope: Any) -> bytes:
    return json.dumps({"success": True, "data": data, **envelope}).encode()


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.TAKEN) for status in (200, 201, 202, 204)),
        *((status, Outcome.REFUSED) for status in (400, 413, 422)),
        *((status, Outcome.SPLIT) for status in (404, 405)),
        *((status, Outcome.LATER) for status in (301, 401, 403, 408, 409, 425, 429, 451, 503)),
        *((status, Outcome.UNKNOWN) for status in (500, 502, 504, 520)),
    ],
)
def test_statuses(status: int, outcome: Outcome) -> None:
    """What each means for a report."""
    assert outcome_of(status, says_no=False, is_receipt=True) is outcome


def test_a_no_in_a_yes() -> None:
    """HTTP 200 around `success: false` is a refusal."""
    assert outcome_of(200, says_no=True, is_receipt=False) is Outcome.REFUSED


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_yes_that_is_no_receipt_tells_nothing(status: int) -> None:
    """Any 2xx may come from something else than Zion."""
    assert outcome_of(status, says_no=False, is_receipt=False) is Outcome.UNKNOWN


def result(email: str | None, success: bool = True) -> ItemResult:
    return ItemResult(success=success, email=email)


ITEMS = [Item("ana", "a@x", "m"), Item("ana", "a@x", "n"), Item("bo", "b@x", "m")]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([result("a@x"), result("a@x", False), result("b@x")], [True, False, True]),
        ([result(None), result(None, False), result(None)], [True, False, True]),
        ([result("b@x"), result("a@x", False), result("a@x")], [False, True, True]),
        ([result("a@x", False)], [False, None, None]),
        ([result("b@x", False), result("z@x", False)], [None, None, False]),
        ([], [None, None, None]),
    ],
)
def test_results_belong_to_items(results: list[ItemResult], expected: list[bool | None]) -> None:
    """By position where they fit, else by e-mail in order; an item of which nothing is said was taken."""
    assert [r.success if r else None for r in at_once(results_by_item(ITEMS, results))] == expected


def test_results_are_read_item_by_item() -> None:
    """Old and new names, with and without numbers."""
    items = [
        {"email": "a@x", "success": True, "aiRequests": {"newValue": 9, "limit": 100}},
        {"success": False, "error": "user unknown"},
        {"externalId": "e", "limitName": "ai_usage", "success": True},
    ]
    results = at_once(read_answer(answer({"processed": 2, "failed": 1, "results": items}))).results
    assert [result.success for result in results] == [True, False, True]
    assert results[0].used == (9, -1, -1)
    assert results[0].limits == (100, -2, -2)


@pytest.mark.parametrize("body", [b"", b"{}", answer({}), answer({"results": []}), b"[" * 100_000])
def test_an_answer_that_tells_nothing_has_no_results(body: bytes) -> None:
    """After a 2xx nothing is sent again, whatever the body says."""
    assert not at_once(read_answer(body)).results


# ------------------------------------------------------------------------------------------------------------ reports

FULL = answer(
    {
        "processed": 3,
        "failed": 1,
        "results": [
            {"email": "a@x", "success": True, "aiRequests": {"newValue": 9, "limit": 100}},
            {"email": "a@x", "success": False, "error": "too late"},
            {"email": "b@x", "success": True},
        ],
    }
)


def test_a_receipt_is_told_item_by_item() -> None:
    """In the words of the port: what is booked, what is granted, what was refused."""
    assert plain(at_once(report_of(200, FULL, ITEMS, single=False))) == Report(
        Outcome.TAKEN,
        [PlainAnswer(True, used=(9, -1, -1), limits=(100, -2, -2)), PlainAnswer(False, "too late"), PlainAnswer(True)],
        "status 200",
    )


def test_the_receipt_of_a_single_item_is_told_the_same_way() -> None:
    """It has no results of its own; its numbers are the item's."""
    body = answer({"aiRequests": {"newValue": 9}})
    report = at_once(report_of(201, body, ITEMS[:1], single=True))
    assert plain(report) == Report(Outcome.TAKEN, [PlainAnswer(True, used=(9, -1, -1))], "status 201")


def test_a_yes_without_a_receipt_is_a_claim() -> None:
    """A page of some gateway, or a receipt for other items: somebody said yes, and nobody knows who."""
    for body in (b"<html>", b"", answer({"processed": 7})):
        assert at_once(report_of(200, body, ITEMS, single=False)) == Report(
            Outcome.UNKNOWN, (), "status 200", claimed=True
        )


def test_a_failure_claims_nothing_and_may_say_when_to_come_again() -> None:
    """What is unknown after an error was said by nobody."""
    report = at_once(report_of(500, b"", ITEMS, single=False, retry_after_seconds=7.0))
    assert report == Report(Outcome.UNKNOWN, (), "status 500", 7.0)
    assert at_once(report_of(503, b"", ITEMS, single=False, retry_after_seconds=7.0)).retry_after_seconds == 7.0


@pytest.mark.parametrize(("single", "outcome"), [(False, Outcome.SPLIT), (True, Outcome.REFUSED)])
def test_a_missing_call_for_batches_is_split(single: bool, outcome: Outcome) -> None:
    """Where even the call for one item is missing, it is the item that is not taken."""
    assert at_once(report_of(404, b"", ITEMS[:1], single=single)) == Report(outcome, (), "status 404")


@pytest.mark.parametrize(
    ("body", "is_one"),
    [
        (FULL, True),
        (answer({"processed": 3}), True),
        (answer(None), True),
        (answer({"processed": 2, "failed": 1, "results": [{"email": "A@X", "success": False}]}), True),
        (answer({"processed": 2, "failed": 0, "results": [{"email": "a@x", "success": False}]}), False),
        (answer({"results": [{"success": True}]}), False),
        (answer({"failed": 2}), False),
        (answer({"processed": 9}), False),
        (answer({"results": "three"}), False),
        (answer({"results": ["a@x"]}), False),
        (answer({"results": [{"email": "stranger@x"}] * 3}), False),
        (answer({"processed": 3}, success=None), False),
        (b"[" * 100_000, False),
        (b"\xff", False),
    ],
)
def test_what_is_a_receipt(body: bytes, is_one: bool) -> None:
    """Results of all items, or counts that agree with what was sent; never an answer about somebody else."""
    assert at_once(is_receipt(at_once(read_answer(body)), ITEMS)) is is_one


@pytest.mark.parametrize(
    ("body", "is_zion_s", "is_one"),
    [
        (answer({}), True, True),
        (b'{"success":false}', True, False),
        (b"{}", False, False),
        (b"<html>", False, False),
    ],
)
def test_the_envelope_gives_zion_away(body: bytes, is_zion_s: bool, is_one: bool) -> None:
    """Whatever it says; a receipt for one item says yes."""
    assert is_envelope(body) is is_zion_s
    assert (at_once(read_increment(body)).success is True) is is_one


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"success":true}'])
def test_a_single_receipt_without_numbers_has_no_result(body: bytes) -> None:
    """It was taken, and nothing is known of what is booked now."""
    assert not at_once(read_increment(body)).results


@pytest.mark.parametrize(
    ("fields", "success", "error"),
    [
        ({"success": True, "aiRequests": "many"}, True, None),
        ({"success": False, "error": "no", "aiRequests": "many"}, False, "no"),
        ({"error": "no", "aiRequests": "many", "email": 7}, False, "no"),
        ({"aiRequests": "many", "email": "a@x"}, True, None),
    ],
)
def test_a_result_that_does_not_fit_is_read_as_far_as_it_goes(fields: Any, success: bool, error: str | None) -> None:
    """A number that we do not understand must not undo the yes of its item."""
    results = at_once(read_answer(answer({"results": [fields]}))).results
    assert [(result.success, result.error) for result in results] == [(success, error)]

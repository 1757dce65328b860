"""Usage reports as Zion takes them, and what its answers mean. Decisions only. Source: docs/zion.md, contract 1.4-1.5.

An answer is believed as far as it can be read: usage that was booked must not be told again for a number in the answer
that we do not understand, and a page of some gateway is no receipt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from sentinel.governance.port import Outcome, Report, UsageItem
from sentinel.limits.policy import EXACT, ByDimension


class MetricResult(msgspec.Struct, rename="camel"):
    """What Zion says about one metric after an increment."""

    new_value: int | None = None
    used: int | None = None
    limit: int | None = None


class ItemResult(msgspec.Struct, rename="camel"):
    """The answer to one item of a batch: an ItemAnswer of the port, whose numbers are read when they are asked for."""

    success: bool
    email: str | None = None
    error: str | None = None
    ai_requests: MetricResult | None = None
    ai_input_tokens: MetricResult | None = None
    ai_output_tokens: MetricResult | None = None

    @property
    def accepted(self) -> bool:
        """Whether Zion has booked the item."""
        return self.success

    @property
    def reason(self) -> str:
        """Why it has not."""
        return self.error or ""

    @property
    def used(self) -> ByDimension:
        """Zion's value of each metric afterwards, -1 where not told."""
        r, i, o = (_known(m.new_value if m.new_value is not None else m.used) if m else -1 for m in self._metrics())
        return r, i, o

    @property
    def limits(self) -> ByDimension:
        """Zion's limit of each metric, -2 where not told."""
        r, i, o = (_told(m.limit) if m else -2 for m in self._metrics())
        return r, i, o

    def _metrics(self) -> tuple[MetricResult | None, ...]:
        return self.ai_requests, self.ai_input_tokens, self.ai_output_tokens


class Increment(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One item of usage (contract 1.4 v4): zero metrics and an unknown model are left out."""

    email: str
    ai_input_tokens: int = 0
    ai_output_tokens: int = 0
    ai_requests: int = 0
    model: str = ""
    timestamp: str = ""


class _Report(msgspec.Struct):
    """The answer to a usage report: less is demanded of it, for it cannot be asked again."""

    success: bool | None = None
    data: dict[str, Any] | None = None


_report = msgspec.json.Decoder(_Report)


_STATUSES = {
    **dict.fromkeys((400, 413, 422), Outcome.REFUSED),
    # There is no such call: a Zion without batches takes single items.
    **dict.fromkeys((404, 405), Outcome.SPLIT),
    # Our key is wrong (an operator mends that), or Zion is busy and says so before it starts.
    **dict.fromkeys((401, 403, 408, 425, 429, 503), Outcome.LATER),
}


def report_of(
    status: int,
    body: bytes,
    items: Sequence[UsageItem],
    *,
    single: bool,
    retry_after_seconds: float | None = None,
) -> Report:
    """What an answer says about a report of these items. single: it went to the call for one item alone."""
    told = is_increment_receipt(body) if single else is_receipt(body, [item.email for item in items])
    outcome = outcome_of(status, says_no=says_no(body), is_receipt=told)
    reason = f"status {status}"
    match outcome:
        case Outcome.TAKEN:
            results = read_increment(body) if single else read_results(body)
            return Report(outcome, results_by_item(items, results), reason)
        case Outcome.SPLIT if single:
            return Report(Outcome.REFUSED, reason=reason)
        case _:
            claimed = outcome is Outcome.UNKNOWN and 200 <= status < 300
            return Report(outcome, (), reason, retry_after_seconds, claimed)


def outcome_of(status: int, *, says_no: bool, is_receipt: bool) -> Outcome:
    """What an HTTP status says about a report (contract 1.5).

    A 2xx is a yes if its body is Zion's receipt for what was sent, a no if that is Zion's own `success: false`
    (says_no); anything else tells nothing for certain. Zion applies items one by one, so after a 5xx a part may have
    been taken.
    """
    if 200 <= status < 300:
        return Outcome.REFUSED if says_no else Outcome.TAKEN if is_receipt else Outcome.UNKNOWN
    return _STATUSES.get(status, Outcome.UNKNOWN if status >= 500 else Outcome.LATER)


def results_by_item(items: Sequence[UsageItem], results: list[ItemResult] | None) -> list[ItemResult | None]:
    """Zion's result of each item, None where it tells nothing; such an item counts as taken.

    By position where there is one result for each item. Else by e-mail, in order: two items of one user differ only by
    their model, which results do not name.
    """
    if not results:
        return [None] * len(items)
    if len(results) == len(items) and all(
        result.email is None or result.email.casefold() == item.email.casefold()
        for item, result in zip(items, results, strict=True)
    ):
        return list(results)
    by_email: dict[str, deque[ItemResult]] = {}
    for result in results:
        by_email.setdefault((result.email or "").casefold(), deque()).append(result)
    queues = [by_email.get(item.email.casefold()) for item in items]
    return [queue.popleft() if queue else None for queue in queues]


def says_no(body: bytes) -> bool:
    """Whether an answer is Zion's own `success: false`, and about the whole: it has no data."""
    try:
        envelope = _report.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return envelope.success is False and not envelope.data


def is_envelope(body: bytes) -> bool:
    """Whether an answer has the form of Zion's, whatever it says."""
    try:
        return _report.decode(body).success is not None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def is_receipt(body: bytes, emails: Sequence[str]) -> bool:
    """Whether the body of a 2xx is Zion's answer to a batch with items of these e-mail addresses.

    Results of all items decide, whatever the counts beside them say (contract 1.5: `processed` is ambiguous). Where
    there are fewer, the counts must agree with what was sent, and with the failures that are named.
    """
    try:
        envelope = _report.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    data = envelope.data or {}
    results = [] if data.get("results") is None else data["results"]
    if envelope.success is None or not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        return False
    known = {email.casefold() for email in emails}
    named = (one.get("email") for one in results)
    if any(isinstance(email, str) and email.casefold() not in known for email in named):
        return False
    if len(results) == len(emails):
        return True
    refused = sum(not _result(one).success for one in results)
    processed, failed = data.get("processed"), data.get("failed", refused)
    if processed is None:
        return envelope.success and not results and not failed
    return envelope.success and failed == refused and processed in (len(emails), len(emails) - refused)


def is_increment_receipt(body: bytes) -> bool:
    """Whether the body of a 2xx is Zion's answer to a single increment."""
    try:
        return _report.decode(body).success is True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def read_results(body: bytes) -> list[ItemResult] | None:
    """The per-item results of a batch that Zion took; None where the body tells nothing usable."""
    try:
        results = (_report.decode(body).data or {}).get("results")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return [_result(fields) for fields in results] if results and isinstance(results, list) else None


def read_increment(body: bytes) -> list[ItemResult] | None:
    """The same for the answer to a single increment, which has no `success` of its own."""
    try:
        fields = _report.decode(body).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return [_result({**fields, "success": True})] if fields else None


def _result(fields: Any) -> ItemResult:
    """One result as far as it can be read: a number that we do not understand must not undo the yes of its item."""
    if not isinstance(fields, dict):
        return ItemResult(success=True)
    try:
        return msgspec.convert(fields, ItemResult)
    except msgspec.ValidationError:
        email, error = fields.get("email"), fields.get("error")
        success = fields["success"] is not False if "success" in fields else not error
        return ItemResult(success, email if isinstance(email, str) else None, str(error) if error else None)


def _known(value: int | None) -> int:
    return -1 if value is None or value < 0 else min(value, EXACT)


def _told(value: int | None) -> int:
    return -2 if value is None or value < 0 or value > EXACT else value

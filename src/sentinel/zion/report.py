"""Usage reports as Zion takes them, and what its answers mean. Decisions only. Source: docs/zion.md, contract 1.4-1.5.

An answer is believed as far as it can be read: usage that was booked must not be told again for a number in the answer
that we do not understand, and a page of some gateway is no receipt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sentinel.governance.port import Outcome, Report, UsageItem
from sentinel.limits.policy import EXACT, ByDimension
from sentinel.steps import Steps, in_portions


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
    """One item of usage (contract 1.4 v4): zero metrics and an unknown model are left out.

    cost_micro_usd: an extension of the built-in governance, which Zion ignores; left out where it is not known.
    """

    email: str
    ai_input_tokens: int = 0
    ai_output_tokens: int = 0
    ai_requests: int = 0
    model: str = ""
    timestamp: str = ""
    cost_micro_usd: int = 0


class _Envelope(msgspec.Struct):
    """The answer to a usage report: less is demanded of it, for it cannot be asked again."""

    success: bool | None = None
    data: dict[str, msgspec.Raw] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The same, read: what cannot be read says nothing. processed, failed: None where not told."""

    success: bool | None = None
    has_data: bool = False
    results: Sequence[ItemResult] = ()
    processed: Any = None
    failed: Any = None


_envelope = msgspec.json.Decoder(_Envelope).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_item = msgspec.json.Decoder(ItemResult).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NULL = msgspec.Raw(b"null")


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
) -> Steps[Report]:
    """What an answer says about a report of these items. single: it went to the call for one item alone."""
    answer = yield from (read_increment(body) if single else read_answer(body))
    is_one = answer.success is True if single else (yield from is_receipt(answer, items))
    outcome = outcome_of(status, says_no=answer.success is False and not answer.has_data, is_receipt=is_one)
    reason = f"status {status}"
    match outcome:
        case Outcome.TAKEN:
            return Report(outcome, (yield from results_by_item(items, answer.results)), reason)
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


def results_by_item(items: Sequence[UsageItem], results: Sequence[ItemResult]) -> Steps[list[ItemResult | None]]:
    """Zion's result of each item, None where it tells nothing; such an item counts as taken.

    By position where there is one result for each item. Else by e-mail, in order: two items of one user differ only by
    their model, which results do not name.
    """
    by_position = len(results) == len(items)
    for pairs in in_portions(list(zip(items, results, strict=False))):
        by_position = by_position and all(
            result.email is None or result.email.casefold() == item.email.casefold() for item, result in pairs
        )
        yield
    if by_position:
        return list(results)
    by_email: dict[str, deque[ItemResult]] = {}
    for portion in in_portions(results):
        for result in portion:
            by_email.setdefault((result.email or "").casefold(), deque()).append(result)
        yield
    found: list[ItemResult | None] = []
    for asked in in_portions(items):
        queues = [by_email.get(item.email.casefold()) for item in asked]
        found += [queue.popleft() if queue else None for queue in queues]
        yield
    return found


def is_envelope(body: bytes) -> bool:
    """Whether an answer has the form of Zion's, whatever it says."""
    try:
        return _envelope(body).success is not None
    except _UNREADABLE:
        return False


def read_answer(body: bytes) -> Steps[Answer]:
    """The answer to a batch, its results one by one."""
    try:
        envelope = _envelope(body)
        yield
        told = dict.fromkeys(("results", "processed", "failed"), _NULL) | (envelope.data or {})
        listed = [] if told["results"] == _NULL else _list(told["results"])
        yield
        results = []
        for portion in in_portions(listed):
            results += [_result(raw) for raw in portion]
            yield
        processed, failed = msgspec.json.decode(told["processed"]), msgspec.json.decode(told["failed"])
    except _UNREADABLE:
        return Answer()
    return Answer(envelope.success, bool(envelope.data), results, processed, failed)


def read_increment(body: bytes) -> Steps[Answer]:
    """The answer to a single increment, whose data is the result; it has no `success` of its own."""
    yield
    try:
        envelope = _envelope(body)
        fields = {name: msgspec.json.decode(raw) for name, raw in (envelope.data or {}).items()}
    except _UNREADABLE:
        return Answer()
    return Answer(envelope.success, bool(fields), [_lenient({**fields, "success": True})] if fields else [])


def is_receipt(answer: Answer, items: Sequence[UsageItem]) -> Steps[bool]:
    """Whether the answer of a 2xx is Zion's to a batch of these items.

    Results of all items decide, whatever the counts beside them say (contract 1.5: `processed` is ambiguous). Where
    there are fewer, the counts must agree with what was sent, and with the failures that are named.
    """
    results = answer.results
    if answer.success is None:
        return False
    known: set[str] = set()
    for portion in in_portions(items):
        known.update(item.email.casefold() for item in portion)
        yield
    for named in in_portions(results):
        if any(result.email is not None and result.email.casefold() not in known for result in named):
            return False
        yield
    if len(results) == len(items):
        return True
    refused = sum(not result.success for result in results)
    failed = refused if answer.failed is None else answer.failed
    if answer.processed is None:
        return answer.success and not results and not failed
    return answer.success and failed == refused and answer.processed in (len(items), len(items) - refused)


def _result(raw: msgspec.Raw) -> ItemResult:
    """One result as far as it can be read. Raises msgspec.DecodeError where it is no object."""
    try:
        return _item(raw)
    except msgspec.ValidationError:
        return _lenient(_object(raw))


def _lenient(fields: dict[str, Any]) -> ItemResult:
    """A number that we do not understand must not undo the yes of its item."""
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

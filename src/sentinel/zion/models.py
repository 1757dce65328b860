"""Zion's wire shapes, read tolerantly, as plain values.

Unknown fields are ignored. Two shapes of limits exist: one `ai_usage` element with three embedded metrics, and three
elements by name; both are read. Null, absent and negative limits mean "not limited", but an answer in which we know no
limit at all tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from sentinel.config import DIMENSIONS
from sentinel.limits.policy import NOT_LIMITED, Quota, Triple

EXACT = 2**53
"""Redis' scripts compute in doubles, exact up to here; a limit beyond it is as good as none."""

METRICS = ("aiRequests", "aiInputTokens", "aiOutputTokens")
"""Zion's names for DIMENSIONS, in the same order."""


class MalformedAnswer(ValueError):
    """Zion answered something that does not fit its contract."""


class UserProfile(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The `data` of GET /users/me that we need. external_id: None where Zion has none or an empty one."""

    id: str
    email: str
    external_id: str | None = None


class AuthenticatedUser(msgspec.Struct, frozen=True, gc=False):
    """The caller. id: the identity everywhere, for limits, logs and keys; email: what Zion books usage under."""

    id: str
    email: str


class UserLimit(msgspec.Struct, frozen=True):
    """One metric of one limit. limit: -1 = not limited. told: Zion says how much is used."""

    limit: int = NOT_LIMITED
    used: int = 0
    told: bool = False

    @property
    def remaining(self) -> float:
        """What it leaves."""
        return float("inf") if self.limit == NOT_LIMITED else self.limit - self.used


class _Envelope(msgspec.Struct):
    success: bool
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Limits(msgspec.Struct, rename="camel"):
    limits: list[dict[str, Any]]
    external_id: str | int | None = None
    user_id: str | int | None = None


class MetricResult(msgspec.Struct, rename="camel"):
    """What Zion says about one metric after an increment."""

    new_value: int | None = None
    used: int | None = None
    limit: int | None = None


class ItemResult(msgspec.Struct, rename="camel"):
    """The answer to one item of a batch."""

    success: bool
    email: str | None = None
    error: str | None = None
    ai_requests: MetricResult | None = None
    ai_input_tokens: MetricResult | None = None
    ai_output_tokens: MetricResult | None = None

    @classmethod
    def of(cls, used: Triple) -> ItemResult:
        """A yes after which Zion has booked so much; -1 = it does not tell."""
        requests, inputs, outputs = (MetricResult(new_value=value) if value >= 0 else None for value in used)
        return cls(True, ai_requests=requests, ai_input_tokens=inputs, ai_output_tokens=outputs)

    def new_values(self) -> Triple:
        """Zion's value of each metric afterwards, -1 where not told."""
        r, i, o = (_known(m.new_value if m.new_value is not None else m.used) if m else -1 for m in self._metrics())
        return r, i, o

    def limits(self) -> Triple:
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


_envelope = msgspec.json.Decoder(_Envelope)
_report = msgspec.json.Decoder(_Report)


def _data(body: bytes, kind: type[Any]) -> Any:
    try:
        envelope = _envelope.decode(body)
        if not envelope.success:
            return None
        return msgspec.json.decode(envelope.data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedAnswer(str(error)) from error


def read_user(body: bytes) -> AuthenticatedUser | None:
    """The caller from an answer of GET /users/me; None where it says `success: false`. Raises MalformedAnswer."""
    profile: UserProfile | None = _data(body, UserProfile)
    if profile is None:
        return None
    identity = profile.external_id or profile.id
    if not identity or not profile.email:
        raise MalformedAnswer("a profile without id or email")
    return AuthenticatedUser(id=identity, email=profile.email)


def read_quota(body: bytes, now_ms: int, user: str) -> Quota | None:
    """The quota of a user from an answer of GET /limits/external/{id}; None where it says `success: false`.

    now_ms: for limits that tell how they reset, but not when. Where two elements limit one metric, the one that leaves
    less counts. Raises MalformedAnswer, also for an answer about somebody else, and for one of which no limit is
    understood, or one not for sure: to misread a limit is to lift it.
    """
    found: _Limits | None = _data(body, _Limits)
    if found is None:
        return None
    names = [str(name) for name in (found.external_id, found.user_id) if name not in (None, "")]
    if names and user not in names:
        raise MalformedAnswer("the limits of somebody else")
    metrics: dict[int, tuple[UserLimit, int]] = {}
    for element in found.limits:
        for d, fields in _metrics_of(element).items():
            limit, ends = _limit(fields), _ends_ms(element.get("periodEnd"), element.get("resetPeriod"), now_ms)
            if d not in metrics or limit.remaining < metrics[d][0].remaining:
                metrics[d] = limit, ends
    if found.limits and not metrics:
        raise MalformedAnswer("no limit that we know")
    r, i, o = (metrics.get(d, (UserLimit(), 0)) for d in range(3))
    return Quota(
        limit=(r[0].limit, i[0].limit, o[0].limit),
        used=(r[0].used, i[0].used, o[0].used),
        ends_ms=(r[1], i[1], o[1]),
        told=(r[0].told, i[0].told, o[0].told),
    )


def _metrics_of(element: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The metrics that an element limits, each with its numbers."""
    name = element.get("name")
    odd = [key for key in element if key not in METRICS and _plain(key) in _PLAIN]
    if odd or (isinstance(name, str) and name not in DIMENSIONS and _plain(name) in _PLAIN):
        raise MalformedAnswer("a limit whose name is spelled otherwise")
    inside = {d: element[METRICS[d]] for d in range(3) if METRICS[d] in element}
    if not inside and name in DIMENSIONS:
        return {DIMENSIONS.index(name): element}
    return {d: {} if value is None else _metric(value) for d, value in inside.items()}


def _plain(name: str) -> str:
    """A name without what spellings differ in."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


_PLAIN = frozenset(_plain(name) for name in METRICS)


def _metric(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedAnswer("a metric that is no object")
    return value


def _limit(metric: dict[str, Any]) -> UserLimit:
    limit, used, remaining = (_number(metric.get(name)) for name in ("limit", "used", "remaining"))
    if limit is None or limit < 0 or limit > EXACT:
        return UserLimit(NOT_LIMITED, _bounded(used or 0), used is not None)
    if used is None and remaining is not None:
        used = limit - remaining
    return UserLimit(limit, _bounded(used or 0), used is not None)


def _bounded(number: int) -> int:
    return min(max(0, number), EXACT)


def _number(value: Any) -> int | None:
    """A number of Zion's, None where it gives none. Raises MalformedAnswer: to misread a limit is to lift it."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedAnswer("a limit that is no number")
    return int(value)


def _ends_ms(period_end: Any, reset_period: Any, now_ms: int) -> int:
    if reset_period == "NEVER":
        return 0
    return period_ends_ms(period_end) or next_reset_ms(reset_period, now_ms)


def period_ends_ms(period_end: Any) -> int:
    """The first instant of the next period, ms since the epoch; 0 where Zion does not say.

    Zion gives the last second of a period (`23:59:59Z`); the next period starts with the second after it.
    """
    if not isinstance(period_end, str):
        return 0
    try:
        moment = datetime.fromisoformat(period_end)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if moment.second == 59:
            moment = moment.replace(microsecond=0) + timedelta(seconds=1)
        return max(0, round(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        # No date, or the last second of the year 9999, by which some mean "never".
        return 0


def next_reset_ms(reset_period: Any, now_ms: int) -> int:
    """When a DAILY, WEEKLY or MONTHLY limit next resets (midnight UTC; Monday; day 1); 0 for anything else."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    match reset_period:
        case "DAILY":
            ends = midnight + timedelta(days=1)
        case "WEEKLY":
            ends = midnight + timedelta(days=7 - now.weekday())
        case "MONTHLY":
            ends = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
        case _:
            return 0
    return round(ends.timestamp() * 1000)


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

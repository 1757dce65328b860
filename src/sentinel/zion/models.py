"""Users and limits as Zion tells them, read tolerantly, as plain values. Usage reports: `report.py`.

Unknown fields are ignored. Two shapes of limits exist: one `ai_usage` element with three embedded metrics, and three
elements by name; both are read. Null, absent and negative limits mean "not limited", but an answer in which we know no
limit at all tells nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec

from sentinel.config import DIMENSIONS
from sentinel.governance.model_globs import MOST_GLOB, MOST_GLOBS, shared
from sentinel.governance.port import AuthenticatedUser
from sentinel.governance.tiers import TIERS, TierConfig, TierModel
from sentinel.limits.policy import EXACT, NOT_LIMITED, Quota

METRICS = ("aiRequests", "aiInputTokens", "aiOutputTokens")
"""Zion's names for DIMENSIONS, in the same order."""


class MalformedAnswer(ValueError):
    """Zion answered something that does not fit its contract."""


_Globs = Annotated[list[Annotated[str, msgspec.Meta(max_length=MOST_GLOB)]], msgspec.Meta(max_length=MOST_GLOBS)]


class UserProfile(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The `data` of GET /users/me that we need. external_id: None where Zion has none or an empty one.

    allowed_models: globs, None = all models. expires_at: of the token, RFC 3339, None = never.
    """

    id: str
    email: str
    external_id: str | None = None
    allowed_models: _Globs | None = None
    expires_at: str | None = None


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


_envelope = msgspec.json.Decoder(_Envelope)


def _data(body: bytes, kind: type[Any]) -> Any:
    try:
        envelope = _envelope.decode(body)
        if not envelope.success:
            return None
        return msgspec.json.decode(envelope.data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedAnswer(str(error)) from error


class _TierModel(msgspec.Struct, rename="camel"):
    provider: str
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    relative_cost: float = 1


class _Tiers(msgspec.Struct):
    tiers: dict[str, list[_TierModel]]


def read_tiers(body: bytes) -> TierConfig:
    """The models of each tier, from an answer of GET /tiers/config. Raises MalformedAnswer."""
    told: _Tiers | None = _data(body, _Tiers)
    if told is None:
        raise MalformedAnswer("no tiers")
    return {
        tier: [
            TierModel(each.provider, each.model, max(1, round(each.relative_cost))) for each in told.tiers.get(tier, ())
        ]
        for tier in TIERS
    }


def read_user(body: bytes) -> AuthenticatedUser | None:
    """The caller from an answer of GET /users/me; None where it says `success: false`.

    Raises MalformedAnswer, also where it is not sure which models the plan has, or when the token ends: to misread that
    is to lift it.
    """
    told: dict[str, Any] | None = _data(body, dict[str, Any])
    if told is None:
        return None
    if any(_plain(name) == "allowedmodels" and name != "allowedModels" for name in told):
        raise MalformedAnswer("allowedModels is spelled otherwise")
    try:
        profile = msgspec.convert(told, UserProfile)
    except msgspec.ValidationError as error:
        raise MalformedAnswer(str(error)) from error
    identity = profile.external_id or profile.id
    if not identity or not profile.email:
        raise MalformedAnswer("a profile without id or email")
    models = None if profile.allowed_models is None else shared(tuple(profile.allowed_models))
    ends = None if profile.expires_at is None else _moment_ms(profile.expires_at)
    return AuthenticatedUser(identity, profile.email, models, ends)


def _moment_ms(text: str) -> int:
    """A moment in RFC 3339, ms since the epoch; one without an offset is in UTC. Raises MalformedAnswer."""
    try:
        moment = datetime.fromisoformat(text)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise MalformedAnswer("expiresAt is no date") from error


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

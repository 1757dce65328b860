"""The users of the Zion simulator: their limits, what they used, and when their period starts again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

WIRE_NAMES = {"ai_input_tokens": "aiInputTokens", "ai_output_tokens": "aiOutputTokens", "ai_requests": "aiRequests"}
METRICS = tuple(WIRE_NAMES)

ResetPeriod = Literal["DAILY", "WEEKLY", "MONTHLY", "NEVER"]
Status = Literal["active", "revoked", "forbidden"]


@dataclass
class SimUser:
    """A user of Zion with a subscription; tests may change any field at any time.

    external_id: None goes out as null and "" as "", both legal. limits: per metric; None or a negative number mean
    unlimited, a metric left out is not mentioned to anybody. period_end: the last second that belongs to the period,
    after it `used` starts again at 0; None never does. status: "revoked" makes Zion answer 401, "forbidden" 403.
    allowed_models: globs of their plan; None: not told. expires_at: of their tokens, RFC 3339; None: not told.
    """

    id: str
    email: str
    name: str | None = None
    external_id: str | None = None
    limits: dict[str, int | None] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METRICS, 0))
    reset_period: ResetPeriod | None = "MONTHLY"
    period_start: datetime | None = None
    period_end: datetime | None = None
    status: Status = "active"
    allowed_models: list[str] | None = None
    expires_at: str | None = None

    def start_period(self, now: datetime) -> None:
        """Put the period to the calendar's one that contains `now`."""
        period = calendar_period(self.reset_period, now)
        self.period_start, self.period_end = period.start, period.end

    def roll(self, now: datetime) -> None:
        """Start `used` again at 0 if the period is over."""
        if self.period_end is not None and now > self.period_end:
            self.used = dict.fromkeys(METRICS, 0)
            self.start_period(now)

    def as_json(self) -> dict[str, Any]:
        """The user as plain values, for the control routes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@dataclass(frozen=True)
class Period:
    """A reset period; both ends belong to it. None: no end."""

    start: datetime | None
    end: datetime | None


def calendar_period(reset: ResetPeriod | None, now: datetime) -> Period:
    """Say which period `now` lies in: days from midnight UTC, weeks from Monday, months from day 1."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if reset == "DAILY":
        start, following = midnight, midnight + timedelta(days=1)
    elif reset == "WEEKLY":
        start = midnight - timedelta(days=midnight.weekday())
        following = start + timedelta(days=7)
    elif reset == "MONTHLY":
        start = midnight.replace(day=1)
        following = (start + timedelta(days=32)).replace(day=1)
    else:
        return Period(None, None)
    return Period(start, following - timedelta(seconds=1))


def profile(user: SimUser) -> dict[str, Any]:
    """Zion's `users/me` data with every field that the contract knows; of a plan and an end only what there is."""
    told = {"allowedModels": user.allowed_models, "expiresAt": user.expires_at}
    return {name: value for name, value in told.items() if value is not None} | {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "externalId": user.external_id,
        "emailVerified": True,
        "createdAt": "2026-01-02T03:04:05Z",
        "lastLoginAt": None,
    }


def metric(user: SimUser, name: str) -> dict[str, Any]:
    """One metric as `{limit, used, remaining}`; without a limit nothing remains to be told."""
    limit, used = user.limits.get(name), user.used[name]
    return {"limit": limit, "used": used, "remaining": None if limit is None else limit - used}


def metrics(user: SimUser) -> dict[str, Any]:
    """All metrics of the user's subscription under Zion's names."""
    return {WIRE_NAMES[name]: metric(user, name) for name in METRICS if name in user.limits}


def limits_one(user: SimUser) -> list[dict[str, Any]]:
    """The limits in shape C: one element that holds the three metrics."""
    return [{"name": "ai_usage", "displayName": "AI usage", "unit": "mixed", **metrics(user), **_period(user)}]


def limits_three(user: SimUser) -> list[dict[str, Any]]:
    """The limits in shape A: one element per metric."""
    return [
        {
            "limitId": f"lim_{index}",
            "name": name,
            "displayName": name.removeprefix("ai_").replace("_", " ").capitalize(),
            "unit": "requests" if name == "ai_requests" else "tokens",
            **metric(user, name),
            **_period(user),
        }
        for index, name in enumerate((name for name in METRICS if name in user.limits), start=1)
    ]


def _period(user: SimUser) -> dict[str, Any]:
    return {
        "resetPeriod": user.reset_period,
        "periodStart": _moment(user.period_start),
        "periodEnd": _moment(user.period_end),
    }


def _moment(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")

"""What the admin API takes and answers: bodies, and the objects of answers. Decides.

Names are those of the commands' `--json`; amounts are integers, moments RFC 3339 in UTC. What a name may be made of
`directory` decides; the patterns here tell it to readers of the OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sentinel.governance.service import directory
from sentinel.governance.service.increments import Amounts
from sentinel.governance.service.ledger import Account
from sentinel.governance.service.periods import PeriodKind
from sentinel.governance.service.schema import AMOUNTS
from sentinel.governance.service.usage_report import UsageLine
from sentinel.timestamp import rfc3339

MOST_KEY_SECONDS = 100 * 365 * 86_400

T = TypeVar("T")


def in_schema(pattern: re.Pattern[str]) -> dict[str, Any]:
    """What the schema of a text says of its pattern."""
    return {"pattern": f"^{pattern.pattern}$"}


def _shown(*examples: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """What a model's schema has beside its fields; not their defaults, for what is absent stays as it is."""

    def change(schema: dict[str, Any]) -> None:
        schema["examples"] = list(examples)
        for field in schema["properties"].values():
            field.pop("default", None)

    return change


def _is_text(value: str) -> str:
    """The value, which no database refuses as a text. Raises ValueError."""
    if "\x00" in value:
        raise ValueError("must not have a NUL")
    return value


Text = Annotated[str, AfterValidator(_is_text)]
Amount = Annotated[int, Field(ge=0, le=directory.MOST_LIMIT)]
Name = Annotated[Text, Field(min_length=1, max_length=100, json_schema_extra=in_schema(directory.NAME))]
Email = Annotated[Text, Field(min_length=3, max_length=319, json_schema_extra=in_schema(directory.EMAIL))]
ExternalId = Annotated[str, Field(min_length=1, max_length=255, json_schema_extra=in_schema(directory.IDENTITY))]
Glob = Annotated[
    str, Field(min_length=1, max_length=directory.MOST_GLOB_CHARS, json_schema_extra={"pattern": r"^[\x21-\x7e]+$"})
]
Globs = Annotated[list[Glob], Field(max_length=directory.MOST_GLOBS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PlanChanges(_Body):
    """What a plan shall have. Absent fields stay; of a new plan: not limited, monthly, all models."""

    model_config = ConfigDict(
        json_schema_extra=_shown({"requests": 1_000, "input_tokens": None, "models": ["gpt-4o*", "claude-*"]})
    )

    requests: Amount | None = Field(default=None, description="null: not limited")
    input_tokens: Amount | None = Field(default=None, description="null: not limited")
    output_tokens: Amount | None = Field(default=None, description="null: not limited")
    period: PeriodKind = Field(default="monthly", description="by the calendar, in UTC")
    models: Globs | None = Field(
        default=None,
        description="names, in which * stands for anything; null: all; empty: none",
    )


class NewUser(_Body):
    """A user to be added."""

    model_config = ConfigDict(json_schema_extra=_shown({"email": "ana@corp.test", "plan": "team"}))

    email: Email
    plan: Name
    external_id: ExternalId | None = Field(default=None, description="the organisation's own id")
    name: Name | None = None
    team: Name | None = None


class UserChanges(_Body):
    """What a user shall have. Absent fields stay."""

    model_config = ConfigDict(json_schema_extra=_shown({"plan": "team"}, {"disabled": True}, {"team": None}))

    plan: Name = Field(default="")
    team: Name | None = Field(default=None, description="null: none")
    disabled: bool = Field(default=False)


class NewKeyBody(_Body):
    """A key to be made."""

    model_config = ConfigDict(json_schema_extra=_shown({"name": "laptop", "expires_in_seconds": 7_776_000}))

    name: Name | None = None
    expires_in_seconds: Annotated[int, Field(ge=1, le=MOST_KEY_SECONDS)] | None = Field(
        default=None, description="null: never"
    )


# ----------------------------------------------------------------------------------------------------------- answers

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-02-03T10:20:30.456Z"])]


_USER: dict[str, Any] = {
    "id": "usr_0123456789abcdef",
    "email": "ana@corp.test",
    "external_id": None,
    "name": "Ana",
    "team": "search",
    "plan": "team",
    "disabled": False,
    "created_at": "2026-02-03T10:20:30.456Z",
    "seen_at": None,
}
_SPENDING: dict[str, Any] = {
    "period": "monthly",
    "period_started_at": "2026-02-01T00:00:00.000Z",
    "resets_at": "2026-03-01T00:00:00.000Z",
    "requests": {"limit": 1000, "used": 12, "remaining": 988},
    "input_tokens": {"limit": None, "used": 1500, "remaining": None},
    "output_tokens": {"limit": 80000, "used": 90000, "remaining": -10000},
    "cost_micro_usd": 123456,
}
_KEY: dict[str, Any] = {
    "id": "key_0123456789abcdef",
    "email": "ana@corp.test",
    "prefix": "sk-sentinel-Ab3dEf",
    "name": "laptop",
    "created_at": "2026-02-03T10:20:30.456Z",
    "expires_at": "2026-05-04T10:20:30.456Z",
    "used_at": None,
    "revoked_at": None,
}


class PlanAnswer(BaseModel):
    """A plan. users: how many have it."""

    model_config = ConfigDict(
        json_schema_extra=_shown(
            {
                "name": "team",
                "requests": 1000,
                "input_tokens": None,
                "output_tokens": 500000,
                "period": "monthly",
                "models": ["gpt-4o*"],
                "users": 12,
            }
        )
    )

    name: str
    requests: int | None
    input_tokens: int | None
    output_tokens: int | None
    period: PeriodKind
    models: list[str] | None
    users: int


class Plans(BaseModel):
    """All plans, by name."""

    plans: list[PlanAnswer]


class UserAnswer(BaseModel):
    """A user."""

    model_config = ConfigDict(json_schema_extra=_shown(_USER))

    id: str
    email: str
    external_id: str | None
    name: str | None
    team: str | None
    plan: str
    disabled: bool
    created_at: Moment
    seen_at: Moment | None


class Limit(BaseModel):
    """What may be, has been, and can still be spent in the period. limit, remaining: null = not limited."""

    limit: int | None
    used: int
    remaining: int | None = Field(description="below 0 where more was spent than was granted")


class PeriodUsage(BaseModel):
    """A user's current period. resets_at: when it ends, null = never."""

    model_config = ConfigDict(json_schema_extra=_shown(_SPENDING))

    period: PeriodKind
    period_started_at: Moment | None
    resets_at: Moment | None
    requests: Limit
    input_tokens: Limit
    output_tokens: Limit
    cost_micro_usd: int = Field(description="millionths of a US dollar")


class UserUsageAnswer(UserAnswer):
    """A user, and what they have spent."""

    model_config = ConfigDict(json_schema_extra=_shown({**_USER, "usage": _SPENDING}))

    usage: PeriodUsage


class Users(BaseModel):
    """A page of users, by e-mail address. next: `after` of the next page; null: this is the last one."""

    users: list[UserAnswer]
    next: str | None


class KeyAnswer(BaseModel):
    """What is known of a key. prefix: how it begins."""

    model_config = ConfigDict(json_schema_extra=_shown(_KEY))

    id: str
    email: str
    prefix: str
    name: str | None
    created_at: Moment
    expires_at: Moment | None
    used_at: Moment | None
    revoked_at: Moment | None


class NewKeyAnswer(KeyAnswer):
    """A new key, which is shown this once."""

    model_config = ConfigDict(json_schema_extra=_shown({**_KEY, "key": "sk-sentinel-Ab3dEf..."}))

    key: str


class Keys(BaseModel):
    """The keys of a user, the oldest first, with those that were revoked."""

    keys: list[KeyAnswer]


class UsageAnswer(BaseModel):
    """What a user, team, model or day has spent. group: empty for no team, or for usage of which no model was told."""

    model_config = ConfigDict(
        json_schema_extra=_shown(
            {
                "group": "ana@corp.test",
                "requests": 12,
                "input_tokens": 1500,
                "output_tokens": 90000,
                "cost_micro_usd": 123456,
            }
        )
    )

    group: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int = Field(description="millionths of a US dollar")


class Usage(BaseModel):
    """A page of usage. next: `after` of the next page, which may be empty; null: this is the last one."""

    by: Literal["user", "team", "model", "day"]
    usage: list[UsageAnswer]
    next: str | None


class Success(BaseModel, Generic[T]):
    """The envelope of what was done."""

    success: Literal[True]
    data: T


class ErrorAnswer(BaseModel):
    """What is wrong. field: with which field, where it is one's."""

    model_config = ConfigDict(json_schema_extra=_shown({"code": "NOT_FOUND", "message": "there is no plan 'team'"}))

    code: str
    message: str
    field: str = Field(default="")


class Refusal(BaseModel):
    """The envelope of what was not."""

    success: Literal[False]
    error: ErrorAnswer


def plan_answer(plan: directory.Plan) -> PlanAnswer:
    """A plan, as it is told."""
    models = None if plan.models is None else list(plan.models)
    return PlanAnswer(
        name=plan.name,
        requests=plan.requests,
        input_tokens=plan.input_tokens,
        output_tokens=plan.output_tokens,
        period=plan.period,
        models=models,
        users=plan.users,
    )


def user_answer(user: directory.User) -> UserAnswer:
    """A user, as they are told."""
    return UserAnswer(**_of_user(user))


def user_usage_answer(user: directory.User, account: Account, used: Amounts) -> UserUsageAnswer:
    """A user and what they have spent, as it is told."""
    period = account.period
    limits = [
        Limit(limit=limit, used=spent, remaining=None if limit is None else limit - spent)
        for limit, spent in zip(account.limits, used, strict=False)
    ]
    spending = PeriodUsage(
        period=period.kind,
        period_started_at=None if period.next_start is None else f"{period.start}T00:00:00.000Z",
        resets_at=None if period.next_start is None else f"{period.next_start}T00:00:00.000Z",
        requests=limits[0],
        input_tokens=limits[1],
        output_tokens=limits[2],
        cost_micro_usd=used[3],
    )
    return UserUsageAnswer(**_of_user(user), usage=spending)


def _of_user(user: directory.User) -> dict[str, Any]:
    return {
        "id": user.id,
        "email": user.email,
        "external_id": user.external_id,
        "name": user.name,
        "team": user.team,
        "plan": user.plan,
        "disabled": user.disabled,
        "created_at": rfc3339(user.created_ms),
        "seen_at": _moment(user.seen_ms),
    }


def key_answer(key: directory.Key) -> KeyAnswer:
    """A key, as it is told."""
    return KeyAnswer(**_of_key(key))


def new_key_answer(key: directory.Key, secret: str) -> NewKeyAnswer:
    """A new key, as it is told this once."""
    return NewKeyAnswer(**_of_key(key), key=secret)


def _of_key(key: directory.Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "email": key.email,
        "prefix": key.prefix,
        "name": key.name,
        "created_at": rfc3339(key.created_ms),
        "expires_at": _moment(key.expires_ms),
        "used_at": _moment(key.used_ms),
        "revoked_at": _moment(key.revoked_ms),
    }


def usage_answer(line: UsageLine) -> UsageAnswer:
    """A line of usage, as it is told."""
    return UsageAnswer(group=line.group, **dict(zip(AMOUNTS, line.amounts, strict=True)))


def _moment(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)

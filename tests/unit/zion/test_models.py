"""Zion's wire shapes, read tolerantly; what cannot be read is refused, never taken for "no limit"."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.port import AuthenticatedUser
from sentinel.governance.tiers import TierModel
from sentinel.limits.policy import EXACT, NOT_LIMITED
from sentinel.zion.models import (
    MalformedAnswer,
    next_reset_ms,
    period_ends_ms,
    read_quota,
    read_tiers,
    read_user,
)

NOW_MS = round(datetime(2026, 2, 3, 10, 20, 30, tzinfo=UTC).timestamp() * 1000)


def answer(data: Any, **envelope: Any) -> bytes:
    return json.dumps({"success": True, "data": data, **envelope}).encode()


def at(*moment: int) -> int:
    return round(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc,arg-type]


# ---------------------------------------------------------------------------------------------------------- the user


@pytest.mark.parametrize(
    ("profile", "identity"),
    [
        ({"externalId": "ext-7"}, "ext-7"),
        ({"externalId": None}, "usr_7"),
        ({"externalId": ""}, "usr_7"),
        ({}, "usr_7"),
        ({"emailVerified": "maybe", "createdAt": 5, "plan": {"a": [1]}, "name": None}, "usr_7"),
    ],
)
def test_the_identity_is_the_external_id_or_else_the_id(profile: dict[str, Any], identity: str) -> None:
    """Null, empty and absent are the same; fields that we do not need may be anything."""
    user = read_user(answer({"id": "usr_7", "email": "ana@corp.test", **profile}))
    assert user == AuthenticatedUser(identity, "ana@corp.test")


def test_a_success_that_is_false_is_no_user() -> None:
    """A filled `data` beside `success: false` is not believed."""
    assert read_user(answer({"id": "u", "email": "e@x"}, success=False)) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"<html>",
        b'{"success":true}',
        b'{"success":"yes","data":{}}',
        b'{"success":true,"data":[]}',
        b'{"data":{"id":"u","email":"e@x"}}',
        answer({"id": "u"}),
        answer({"email": "e@x"}),
        answer({"id": "", "email": "e@x"}),
        answer({"id": "u", "email": ""}),
        answer({"id": 7, "email": "e@x"}),
        b'{"success":true,"data":{"id":"\xff","email":"e"}}',
        b'{"success":true,"x":' + b"[" * 100000,
        b'{"success":true,"data":' + b"[" * 100000 + b"]" * 100000 + b"}",
    ],
    ids=range(17),
)
def test_a_broken_profile_is_malformed(body: bytes) -> None:
    """Neither a user nor a refusal: Zion is not well."""
    with pytest.raises(MalformedAnswer):
        read_user(body)


# -------------------------------------------------------------------------------------------------------- the limits


def metric(limit: Any, used: Any = 0, **more: Any) -> dict[str, Any]:
    return {"limit": limit, "used": used, **more}


def quota_of(*elements: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    quota = read_quota(answer({"userId": "u", "externalId": "e", "limits": list(elements)}), NOW_MS, "e")
    assert quota is not None
    return quota.limit, quota.used, quota.ends_ms


ONE = {
    "name": "ai_usage",
    "aiRequests": metric(500, 12),
    "aiInputTokens": metric(200_000, 1500),
    "aiOutputTokens": metric(80_000, 90_000, remaining=-10_000),
    "resetPeriod": "MONTHLY",
    "periodEnd": "2026-02-28T23:59:59Z",
}


def test_one_element_with_three_metrics_is_read() -> None:
    """The newer shape; all metrics share its period."""
    ends = at(2026, 3, 1)
    assert quota_of(ONE) == ((500, 200_000, 80_000), (12, 1500, 90_000), (ends, ends, ends))


def test_three_elements_by_name_are_read() -> None:
    """The older shape, in any order, each with a period of its own; strangers do not disturb."""
    elements = [
        {"name": "storage", "limit": 1, "used": 1},
        {"name": "ai_output_tokens", "limit": 8, "used": 9, "resetPeriod": "DAILY"},
        {"name": "ai_requests", "limit": 5, "used": 1, "resetPeriod": "NEVER", "periodEnd": "2026-02-28T23:59:59Z"},
        {"name": "ai_input_tokens", "limit": 20, "used": 2, "periodEnd": "2026-02-28T23:59:59Z"},
    ]
    assert quota_of(*elements) == ((5, 20, 8), (1, 2, 9), (0, at(2026, 3, 1), at(2026, 2, 4)))


@pytest.mark.parametrize("limit", [None, -1, -(10**20), 2**63 - 1, 10**30, EXACT + 1])
def test_no_limit_is_written_in_many_ways(limit: int | None) -> None:
    """Null, negative, and larger than anything that could be counted."""
    assert quota_of({**ONE, "aiRequests": metric(limit)})[0][0] == NOT_LIMITED


def test_what_is_absent_is_not_limited() -> None:
    """A metric that Zion does not mention, or says nothing of."""
    assert quota_of({"name": "ai_usage", "aiRequests": metric(5)})[0] == (5, NOT_LIMITED, NOT_LIMITED)
    assert quota_of({"name": "ai_usage", "aiRequests": None})[0] == (NOT_LIMITED,) * 3
    assert quota_of({"name": "ai_usage", "aiRequests": {"used": 3}})[:2] == ((NOT_LIMITED,) * 3, (3, 0, 0))


@pytest.mark.parametrize("limit", ["100", "unlimited", True, [], {"value": 5}])
def test_a_limit_that_cannot_be_read_is_not_lifted(limit: Any) -> None:
    """Something is there, and it is no number: refuse, for "no limit" would be a guess."""
    with pytest.raises(MalformedAnswer):
        quota_of({**ONE, "aiRequests": metric(limit)})


def test_whole_numbers_may_be_written_as_fractions() -> None:
    """Some encoders write 100 as 100.0."""
    assert quota_of({**ONE, "aiRequests": metric(100.0, 3.0)})[0][0] == 100


@pytest.mark.parametrize(
    ("fields", "used"),
    [
        ({"used": 30}, 30),
        ({"remaining": 60}, 40),
        ({"remaining": -5}, 105),
        ({}, 0),
        ({"used": -3}, 0),
        ({"used": 10**30}, EXACT),
    ],
)
def test_used_is_told_or_follows_from_the_rest(fields: dict[str, int], used: int) -> None:
    """`used`, else limit - remaining; within what can be counted exactly."""
    assert quota_of({"name": "ai_usage", "aiRequests": {"limit": 100, **fields}})[1][0] == used


def test_no_subscription_is_no_quota() -> None:
    """`success: false` is an answer, not a failure."""
    assert read_quota(answer({"limits": []}, success=False), NOW_MS, "e") is None


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", answer([]), answer({}), b'{"data":{"limits":[]}}'),
        *(answer({"limits": limits}) for limits in (5, None, [5], [{"aiRequests": "broken"}], [{"aiRequests": 5}])),
    ],
    ids=range(10),
)
def test_broken_limits_are_malformed(body: bytes) -> None:
    """Not "no limits"."""
    with pytest.raises(MalformedAnswer):
        read_quota(body, NOW_MS, "e")


@pytest.mark.parametrize(
    "elements",
    [
        [{}],
        [{"name": "ai_usage"}],
        [{"name": "storage", "limit": 1}],
        [{"name": "AI_REQUESTS", "limit": 5, "used": 1}],
        [{"name": "aiRequests", "limit": 5, "used": 1}],
        [{"name": "ai-requests", "limit": 5}, {"name": "ai_input_tokens", "limit": 5}],
        [{"name": "ai_usage", "ai_requests": metric(5)}],
        [{"name": "ai_usage", "AiRequests": metric(5)}],
        [{"name": "ai_usage", "airequests": metric(5), "aiInputTokens": metric(5), "aiOutputTokens": metric(5)}],
    ],
    ids=str,
)
def test_limits_that_are_not_understood_are_not_lifted(elements: list[Any]) -> None:
    """Limits are there, under names that we do not know: that is no subscription without limits."""
    with pytest.raises(MalformedAnswer):
        quota_of(*elements)


def test_a_user_without_limits_has_none() -> None:
    """The list may be empty (contract, 1.3)."""
    assert quota_of()[0] == (NOT_LIMITED,) * 3


@pytest.mark.parametrize(
    ("ids", "mine"),
    [
        ({"externalId": "e"}, True),
        ({"externalId": "e", "userId": "u"}, True),
        ({"externalId": "x", "userId": "e"}, True),
        ({"externalId": None, "userId": "e"}, True),
        ({"externalId": "", "userId": "e"}, True),
        ({}, True),
        ({"externalId": "x"}, False),
        ({"externalId": "E", "userId": "u"}, False),
        ({"externalId": None, "userId": "u"}, False),
        ({"externalId": 7}, False),
        ({"externalId": ["e"]}, False),
    ],
    ids=str,
)
def test_limits_of_somebody_else_are_malformed(ids: dict[str, Any], mine: bool) -> None:
    """Asked for `e`: its external id, or its id where Zion has no other."""
    body = answer({**ids, "limits": [ONE]})
    if mine:
        assert read_quota(body, NOW_MS, "e") is not None
    else:
        with pytest.raises(MalformedAnswer):
            read_quota(body, NOW_MS, "e")


def test_of_two_limits_of_one_metric_the_one_that_leaves_less_counts() -> None:
    """Whatever their order; with its own period."""
    day = {"name": "ai_requests", "limit": 500, "used": 495, "resetPeriod": "DAILY"}
    month = {"name": "ai_requests", "limit": 100, "used": 1, "resetPeriod": "NEVER"}
    none = {"name": "ai_usage", "aiRequests": metric(None)}
    expected = ((500, NOT_LIMITED, NOT_LIMITED), (495, 0, 0), (at(2026, 2, 4), 0, 0))
    assert quota_of(day, month, none) == quota_of(none, month, day) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ONE, "limit", "used"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_read_or_malformed(data: Any) -> None:
    """Nothing else comes out, whatever Zion says."""
    for body in (answer(data), answer({"limits": [data]}), answer({"limits": [{**ONE, "aiRequests": data}]})):
        for reader in (read_user, lambda body: read_quota(body, NOW_MS, "e")):
            try:
                reader(body)
            except MalformedAnswer:
                continue


# ------------------------------------------------------------------------------------------------------------ periods


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("2026-02-28T23:59:59Z", at(2026, 3, 1)),
        ("2026-02-28T23:59:59.999Z", at(2026, 3, 1)),
        ("2026-03-01T00:00:00Z", at(2026, 3, 1)),
        ("2026-03-01T01:00:00+01:00", at(2026, 3, 1)),
        ("2026-03-01T00:00:00", at(2026, 3, 1)),
        ("9999-12-31T23:59:59Z", 0),
        ("0001-01-01T00:00:00+14:00", 0),
        ("never", 0),
        ("", 0),
        (None, 0),
        (1772323200, 0),
    ],
)
def test_the_end_of_a_period_is_its_next_first_instant(text: Any, ends: int) -> None:
    """Zion names the last second; what is no date has no end."""
    assert period_ends_ms(text) == ends


@pytest.mark.parametrize(
    ("period", "ends"),
    [
        ("DAILY", at(2026, 2, 4)),
        ("WEEKLY", at(2026, 2, 9)),
        ("MONTHLY", at(2026, 3, 1)),
        ("NEVER", 0),
        (None, 0),
        ("YEARLY", 0),
        (5, 0),
    ],
)
def test_a_period_without_dates_ends_by_the_calendar(period: Any, ends: int) -> None:
    """Midnight UTC, Monday, day 1."""
    assert next_reset_ms(period, NOW_MS) == ends


@given(st.integers(0, at(2200, 1, 1)), st.sampled_from(["DAILY", "WEEKLY", "MONTHLY"]))
def test_a_reset_lies_ahead(now_ms: int, period: str) -> None:
    """At any moment, the next reset is later, by a period at most."""
    assert 0 < next_reset_ms(period, now_ms) - now_ms <= 31 * 86_400_000


@pytest.mark.parametrize(
    ("told", "tiers"),
    [
        ({}, {}),
        ({"simple": [{"provider": "p", "model": "m"}]}, {"simple": [TierModel("p", "m", 1)]}),
        ({"simple": [{"provider": "p", "model": "m", "relativeCost": 2.6}]}, {"simple": [TierModel("p", "m", 3)]}),
        ({"simple": [{"provider": "p", "model": "m", "relativeCost": 0}]}, {"simple": [TierModel("p", "m", 1)]}),
        ({"gigantic": [{"provider": "p", "model": "m"}]}, {}),
    ],
)
def test_tiers(told: dict[str, Any], tiers: dict[str, list[TierModel]]) -> None:
    """Those that there are, each with its models; a cost is at least 1."""
    body = json.dumps({"success": True, "data": {"version": "1", "tiers": told}}).encode()
    assert read_tiers(body) == {"simple": [], "moderate": [], "complex": [], **tiers}


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b'{"success":false}',
        b'{"success":true,"data":{}}',
        b'{"success":true,"data":{"tiers":{"simple":[{"provider":"p"}]}}}',
        b'{"success":true,"data":{"tiers":{"simple":[{"provider":"p","model":""}]}}}',
    ],
)
def test_no_tiers(body: bytes) -> None:
    """What is no answer about tiers."""
    with pytest.raises(MalformedAnswer):
        read_tiers(body)


# ---------------------------------------------------------------------------------------------------------- their plan


def told(**profile: Any) -> AuthenticatedUser | None:
    return read_user(answer({"id": "u", "email": "e@x", **profile}))


@pytest.mark.parametrize(
    ("profile", "models", "ends_ms"),
    [
        ({}, None, None),
        ({"allowedModels": None, "expiresAt": None}, None, None),
        ({"allowedModels": []}, (), None),
        ({"allowedModels": ["gpt-4o*", "o3", ""]}, ("gpt-4o*", "o3", ""), None),
        ({"expiresAt": "2026-03-01T00:00:00Z"}, None, at(2026, 3, 1)),
        ({"expiresAt": "2026-03-01T02:00:00.250+02:00"}, None, at(2026, 3, 1) + 250),
        ({"expiresAt": "2026-03-01t00:00:00"}, None, at(2026, 3, 1)),
        ({"plan": {"allowedModels": 5}, "expires": "never"}, None, None),
    ],
)
def test_what_a_plan_has_and_when_a_token_ends(profile: Any, models: Any, ends_ms: int | None) -> None:
    """Absent and null are all, and never; an empty list has none."""
    assert told(**profile) == AuthenticatedUser("u", "e@x", models, ends_ms)


@pytest.mark.parametrize(
    "profile",
    [
        {"allowedModels": "gpt-4o"},
        {"allowedModels": {"gpt-4o": True}},
        {"allowedModels": ["gpt-4o", None]},
        {"allowedModels": ["gpt-4o", 5]},
        {"allowedModels": ["m"] * 1001},
        {"allowedModels": ["m" * 257]},
        {"allowed_models": ["gpt-4o"]},
        {"AllowedModels": None},
        {"expiresAt": ""},
        {"expiresAt": "soon"},
        {"expiresAt": 1_800_000_000},
    ],
    ids=str,
)
def test_a_plan_that_is_misread_would_be_lifted(profile: Any) -> None:
    """So an answer with what is not understood for sure is broken."""
    with pytest.raises(MalformedAnswer):
        told(**profile)

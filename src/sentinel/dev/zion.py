"""A stand-in for Zion, the governance system: users, limits, and usage that really adds up.

One class, because every route reads the same ledger under the same lock.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import deque
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sentinel.dev.accounts import (
    METRICS,
    WIRE_NAMES,
    ResetPeriod,
    SimUser,
    Status,
    limits_one,
    limits_three,
    metric,
    metrics,
    profile,
)
from sentinel.dev.clock import now, unix_seconds
from sentinel.dev.control import PREFIX as CONTROL_PREFIX
from sentinel.dev.control import control, set_faults, set_options
from sentinel.dev.exchange import Call, Exchange
from sentinel.dev.faults import Faults, misbehave, misbehave_after, retry_headers
from sentinel.dev.increments import MAX_INCREMENTS, BadIncrement, Increment, read_batch, read_increment
from sentinel.dev.jwt import InvalidToken, issue_token, read_token
from sentinel.dev.tiers import TIERS_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send

USERS_ME = "/api/v1/users/me"
LIMITS = "/api/v1/limits/external/"
INCREMENT = "/api/v1/usage/external/increment"
BATCH = "/api/v1/usage/external/batch-increment"
TIERS = "/api/v1/tiers/config"

LimitShape = Literal["C", "A"]
ResultsStyle = Literal["full", "no_limit_name", "empty", "garbage", "old_shape"]
UsersMeStyle = Literal["full", "success_false", "minimal", "extra", "absent_external_id"]

_METHODS = {USERS_ME: "GET", LIMITS: "GET", INCREMENT: "POST", BATCH: "POST", TIERS: "GET"}
_MAX_CALLS = 20_000  # Enough for any test to look back; bodies of a benchmark must not fill the memory.
_MAX_APPLIED = 1_000_000  # Far above the items of a kill campaign.
_GARBAGE = b'{"success":true,"data":{"processed":'
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
}
_OPTIONS = dict.fromkeys(
    (
        "limit_shape",
        "results_style",
        "users_me_style",
        "dedupe",
        "batch_endpoint_missing",
        "increment_missing",
        "refused_emails",
    )
)


class _Refusal(Exception):
    """Zion says no: the status and the reason of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Applied:
    """One item that was added to a user's usage. idempotency_key: "" if none was sent. at: Unix seconds."""

    email: str
    ai_input_tokens: int
    ai_output_tokens: int
    ai_requests: int
    model: str | None
    timestamp: str | None
    idempotency_key: str
    path: str
    at: float
    cost_micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


class ZionSimulator:
    """Speaks Zion's API from memory; `app` is the ASGI app, every attribute below may be switched at any time.

    limit_shape: "C" one `ai_usage` element, "A" three elements. results_style: how a batch or increment is answered
    (it is applied all the same). users_me_style: how `users/me` is answered. refused_emails: whose items fail.
    dedupe: honour `Idempotency-Key`, which a real Zion does not; a key that comes again with another body gets 422.
    """

    def __init__(self, api_key: str = "zion-sim-key") -> None:
        self.api_key = api_key
        self.faults = Faults()
        self.calls: deque[Call] = deque(maxlen=_MAX_CALLS)
        self.applied: deque[Applied] = deque(maxlen=_MAX_APPLIED)
        self.limit_shape: LimitShape = "C"
        self.results_style: ResultsStyle = "full"
        self.users_me_style: UsersMeStyle = "full"
        self.dedupe = False
        self.batch_endpoint_missing = False
        self.increment_missing = False
        self.refused_emails: set[str] = set()
        # Nobody else shall issue tokens: the provider behind a simulated Zion may be a real one.
        self._secret = secrets.token_bytes(32)
        self._opaque_tokens: dict[str, str] = {}  # Token -> e-mail.
        self._ends: dict[str, str] = {}  # Token -> when it ends, of those that say so to nobody but Zion.
        self._users: dict[str, SimUser] = {}  # By e-mail.
        self._by_id: dict[str, SimUser] = {}  # By what the path of a limits call may name: the last who had it.
        self._revoked_tokens: set[str] = set()
        self._answers: dict[str, tuple[bytes, _Answer]] = {}  # Idempotency key -> digest of the body, first answer.
        self._token_ids = itertools.count(1)
        self._lock = threading.RLock()
        self.app = self.__call__

    # ------------------------------------------------------------------------------------------- what tests call

    def add_user(  # noqa: PLR0913  Zion knows so much of a user.
        self,
        email: str,
        *,
        id: str | None = None,  # noqa: A002  Zion's name for it.
        name: str | None = None,
        external_id: str | None = None,
        limits: Mapping[str, int | None] | None = None,
        used: Mapping[str, int] | None = None,
        reset_period: ResetPeriod | None = "MONTHLY",
        status: Status = "active",
        allowed_models: list[str] | None = None,
        expires_at: str | None = None,
    ) -> SimUser:
        """Add a user, or replace the one with this e-mail address.

        limits: per metric (`ai_requests`, `ai_input_tokens`, `ai_output_tokens`); left out entirely, all are unlimited.
        Raises ValueError for an unknown metric.
        """
        unknown = {*(limits or {}), *(used or {})} - {*METRICS}
        if unknown:
            raise ValueError(f"unknown metrics: {', '.join(sorted(unknown))}")
        with self._lock:
            user = SimUser(
                id=id or f"usr_{len(self._users) + 1}",
                email=email,
                name=name,
                external_id=external_id,
                limits=dict.fromkeys(METRICS) if limits is None else dict(limits),
                used={**dict.fromkeys(METRICS, 0), **(used or {})},
                reset_period=reset_period,
                status=status,
                allowed_models=allowed_models,
                expires_at=expires_at,
            )
            user.start_period(now())
            self._users[email] = self._by_id[user.id] = self._by_id[external_id or user.id] = user
        return user

    def token(self, user: SimUser, lifetime_seconds: float = 86_400) -> str:
        """Issue a JWT for `user`; every call gives another one. A negative lifetime gives an expired token."""
        issued = unix_seconds()
        claims = {"sub": user.email, "iat": int(issued), "exp": issued + lifetime_seconds, "jti": next(self._token_ids)}
        return issue_token(self._secret, claims)

    def add_token(self, user: SimUser, token: str, expires_at: str | None = None) -> None:
        """Accept a token that is no JWT and tells nothing, for as long as it is not revoked, and until it ends."""
        with self._lock:
            self._opaque_tokens[token] = user.email
            if expires_at is not None:
                self._ends[token] = expires_at

    def revoke(self, token: str) -> None:
        """Make Zion answer 401 to this token from now on."""
        with self._lock:
            self._revoked_tokens.add(token)

    def user(self, email: str) -> SimUser:
        """The user with this e-mail address. Raises KeyError."""
        with self._lock:
            return self._users[email]

    def used(self, email: str) -> dict[str, int]:
        """What the user has used in this period, per metric. Raises KeyError."""
        with self._lock:
            user = self._users[email]
            user.roll(now())
            return dict(user.used)

    # ------------------------------------------------------------------------------------------------------ HTTP

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        exchange = Exchange(scope, receive, send)
        if not await exchange.read():
            return
        if exchange.path.startswith(CONTROL_PREFIX):
            await control(exchange, self._control_actions())
            return
        self.calls.append(exchange.record())
        fault = self.faults.take(exchange.path, applies_usage=exchange.path in {BATCH, INCREMENT})
        if fault is not None and await misbehave(exchange, fault, self.faults, _internal_error):
            return
        answer = self._answer(exchange)
        applied = answer.status == 200
        if not (applied and await misbehave_after(exchange, fault)):
            await exchange.answer(answer.status, answer.body)

    def _answer(self, exchange: Exchange) -> _Answer:
        try:
            with self._lock:
                return self._route(exchange)
        except _Refusal as refusal:
            return _Answer(refusal.status, _envelope_error(refusal.status, str(refusal)))
        except BadIncrement as mistake:
            return _Answer(400, _envelope_error(400, str(mistake)))

    def _route(self, exchange: Exchange) -> _Answer:
        route = LIMITS if exchange.path.startswith(LIMITS) else exchange.path
        missing = (route == BATCH and self.batch_endpoint_missing) or (route == INCREMENT and self.increment_missing)
        if route not in _METHODS or missing:
            raise _Refusal(404, f"no route {exchange.method} {exchange.path}")
        if exchange.method != _METHODS[route]:
            raise _Refusal(405, f"use {_METHODS[route]}")
        if route == USERS_ME:
            return self._users_me(exchange)
        self._demand_api_key(exchange)
        if route == LIMITS:
            return self._limits(exchange.path.removeprefix(LIMITS))
        if route == TIERS:
            return _success(TIERS_CONFIG)
        return self._once(exchange, self._batch if route == BATCH else self._increment)

    def _demand_api_key(self, exchange: Exchange) -> None:
        if "authorization" in exchange.headers:
            raise _Refusal(401, "Authorization is for users/me; this route wants x-api-key alone")
        if exchange.headers.get("x-api-key") != self.api_key:
            raise _Refusal(401, "x-api-key is missing or wrong")

    def _users_me(self, exchange: Exchange) -> _Answer:
        user, ends = self._authenticate(exchange)
        data = profile(user) | ({} if ends is None else {"expiresAt": ends})
        match self.users_me_style:
            case "success_false":
                return _Answer(200, msgspec.json.encode({"success": False, "data": data}))
            case "minimal":
                data = {name: data[name] for name in ("id", "email", "externalId")}
            case "extra":
                data |= {"plan": {"name": "team", "seats": 12}, "roles": ["member"], "locale": None}
            case "absent_external_id":
                del data["externalId"]
            case "full":
                pass
        return _success(data)

    def _authenticate(self, exchange: Exchange) -> tuple[SimUser, str | None]:
        scheme, _, token = exchange.headers.get("authorization", "").partition(" ")
        if "x-api-key" in exchange.headers or scheme.lower() != "bearer":
            raise _Refusal(401, "users/me wants Authorization: Bearer alone")
        try:
            email = self._opaque_tokens.get(token) or read_token(self._secret, token, unix_seconds()).get("sub", "")
        except InvalidToken as cause:
            raise _Refusal(401, f"invalid token: {cause}") from cause
        user = self._users.get(email)
        if user is None or user.status == "revoked" or token in self._revoked_tokens:
            raise _Refusal(401, "this token is not valid any more")
        if user.status == "forbidden":
            raise _Refusal(403, "this user may not use AI")
        ends = self._ends.get(token, user.expires_at)
        if ends is not None and datetime.fromisoformat(ends) <= now():
            raise _Refusal(401, "this token has expired")
        return user, ends

    def _limits(self, external_id: str) -> _Answer:
        user = self._by_id.get(external_id)
        if user is None or self._users.get(user.email) is not user:
            user = next((u for u in self._users.values() if external_id in {u.external_id or u.id, u.id}), None)
        if user is None:
            raise _Refusal(404, "no user has this external id")
        user.roll(now())
        limits = limits_one(user) if self.limit_shape == "C" else limits_three(user)
        return _success({"userId": user.id, "externalId": external_id, "limits": limits})

    # ----------------------------------------------------------------------------------------------------- usage

    def _once(self, exchange: Exchange, apply: Callable[[Exchange, str], _Answer]) -> _Answer:
        """Apply a report; with `dedupe`, a key that was seen gets its first answer again."""
        key = exchange.headers.get("idempotency-key", "")
        if not self.dedupe or not key:
            return apply(exchange, key)
        digest = sha256(exchange.raw).digest()
        if key in self._answers:
            first_digest, first_answer = self._answers[key]
            if digest != first_digest:
                raise _Refusal(422, "this Idempotency-Key was used with another body")
            return first_answer
        answer = apply(exchange, key)
        self._answers[key] = (digest, answer)
        return answer

    def _batch(self, exchange: Exchange, key: str) -> _Answer:
        body = _json_body(exchange)
        if isinstance(body, dict) and isinstance(items := body.get("increments"), list) and len(items) > MAX_INCREMENTS:
            raise _Refusal(413, f"at most {MAX_INCREMENTS} increments at once")
        results = [self._batch_item(increment, key) for increment in read_batch(body)]
        failed = sum(not result["success"] for result in results)
        if self.results_style == "garbage":
            return _Answer(200, _GARBAGE)
        shown = [] if self.results_style == "empty" else results
        return _success({"processed": len(results), "failed": failed, "results": shown})

    def _batch_item(self, increment: Increment, key: str) -> dict[str, Any]:
        problem = self._apply(increment, BATCH, key)
        user = self._users.get(increment.email)
        result: dict[str, Any] = {"email": increment.email, "limitName": "ai_usage", "success": problem is None}
        if self.results_style == "no_limit_name":
            del result["limitName"]
        if problem is not None or user is None:
            return {**result, "error": problem}
        if self.results_style == "old_shape":
            limit, used = user.limits.get("ai_requests"), user.used["ai_requests"]
            return {"externalId": user.external_id, "success": True, "newValue": used, "limit": limit}
        return result | {
            WIRE_NAMES[name]: {"newValue": user.used[name], "limit": user.limits.get(name)} for name in METRICS
        }

    def _increment(self, exchange: Exchange, key: str) -> _Answer:
        increment = read_increment(_json_body(exchange))
        problem = self._apply(increment, INCREMENT, key)
        if problem is not None:
            # Not 404, even if nobody knows the user: that would say that there is no such call.
            raise _Refusal(400, problem)
        user = self._users[increment.email]
        match self.results_style:
            case "garbage":
                return _Answer(200, _GARBAGE)
            case "empty":
                return _success({})
            case "old_shape":
                return _success({"name": "ai_usage", "displayName": "AI usage", **metrics(user)})
            case _:
                all_metrics = {WIRE_NAMES[name]: metric(user, name) for name in METRICS}
                return _success({"canUse": _can_use(user), **all_metrics})

    def _apply(self, increment: Increment, path: str, key: str) -> str | None:
        """Add `increment` to its user's usage; the reason if that is refused."""
        user = self._users.get(increment.email)
        if user is None:
            return "user unknown"
        if increment.email in self.refused_emails:
            return "refused"
        user.roll(now())
        for name in METRICS:
            user.used[name] += getattr(increment, name)
        self.applied.append(Applied(**asdict(increment), idempotency_key=key, path=path, at=unix_seconds()))
        return None

    # --------------------------------------------------------------------------------------------------- control

    def _control_actions(self) -> dict[tuple[str, str], Any]:
        return {
            ("GET", "/_sim/faults"): lambda _: self.faults.as_json(),
            ("POST", "/_sim/faults"): lambda body: set_faults(self.faults, body),
            ("GET", "/_sim/options"): lambda _: set_options(self, _OPTIONS, {}),
            ("POST", "/_sim/options"): lambda body: set_options(self, _OPTIONS, body),
            ("GET", "/_sim/calls"): lambda _: [call.as_json() for call in list(self.calls)],
            ("POST", "/_sim/users"): self._control_add_user,
            ("GET", "/_sim/usage"): lambda _: {email: self.used(email) for email in list(self._users)},
            ("GET", "/_sim/applied"): lambda _: list(self.applied),
        }

    def _control_add_user(self, body: dict[str, Any]) -> dict[str, Any]:
        user = self.add_user(**body)
        return {**user.as_json(), "token": self.token(user)}


def _json_body(exchange: Exchange) -> Any:
    if not exchange.headers.get("content-type", "").startswith("application/json"):
        raise _Refusal(400, "Content-Type must be application/json")
    try:
        return msgspec.json.decode(exchange.raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise _Refusal(400, f"the body is not JSON: {cause}") from cause


def _can_use(user: SimUser) -> bool:
    finite = [(name, limit) for name, limit in user.limits.items() if limit is not None and limit >= 0]
    return all(user.used[name] < limit for name, limit in finite)


def _success(data: object) -> _Answer:
    return _Answer(200, msgspec.json.encode({"success": True, "data": data}))


def _envelope_error(status: int, message: str) -> bytes:
    code = _CODES.get(status, "INTERNAL_ERROR")
    return msgspec.json.encode({"success": False, "error": {"code": code, "message": message}})


def _internal_error(status: int, retry_after: str | None) -> tuple[bytes, list[tuple[str, str]]]:
    # Mentions what a client of Sentinel must never see, so that a leak shows in a test.
    return _envelope_error(status, "simulated failure at zion-db-7.internal"), retry_headers(retry_after)

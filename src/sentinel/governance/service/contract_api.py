"""Zion's HTTP contract: who is this, what may they spend, book this. `docs/zion.md` has it, as proxies rely on it.

Answers are envelopes: `{"success": true, "data": ...}`, or `{"success": false, "error": {"code", "message"}}`. No error
tells of SQL, of a path, or of another user.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar

import anyio.to_thread
import msgspec
import structlog
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from sentinel.error import whole_seconds
from sentinel.governance.service import ledger
from sentinel.governance.service.database import DatabaseUnavailable
from sentinel.governance.service.identity import Caller, UserDisabled
from sentinel.governance.service.increments import (
    MOST_ITEMS,
    Amounts,
    BadIncrement,
    Increment,
    read_increment,
)
from sentinel.governance.service.ledger import Account, Answered, Booked, KeyReused
from sentinel.governance.service.oidc.discovery import IssuerUnavailable
from sentinel.governance.service.oidc.identity import TokenRefused
from sentinel.governance.service.service import Service
from sentinel.timestamp import rfc3339

log = structlog.get_logger()

MOST_BODY_BYTES = 4 * 1024 * 1024
"""Four times what 1,000 items of the longest names have."""
LOOK_UP_SECONDS = 1.5
"""A look-up has an answer after so long: proxies wait for 2.5 s (zion/client.py)."""
TURN_SECONDS = 4.0
"""So long a report waits for others; proxies wait for 15 s."""
_METRICS = ("aiRequests", "aiInputTokens", "aiOutputTokens")
_DIMENSIONS = (("ai_requests", "requests"), ("ai_input_tokens", "tokens"), ("ai_output_tokens", "tokens"))
CODES = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    422: "IDEMPOTENCY_KEY_REUSED",
    429: "TOO_MANY_FAILURES",
    503: "SERVICE_UNAVAILABLE",
}

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    """A request that is answered with an error. retry_after_seconds: when it may come again. field: which is wrong."""

    def __init__(
        self, status: int, message: str, retry_after_seconds: float | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.field = field


def refusal(error: Refused) -> Response:
    """The answer that tells an error."""
    told = {"code": CODES.get(error.status, "INTERNAL_ERROR"), "message": error.message}
    if error.field is not None:
        told["field"] = error.field
    wait = error.retry_after_seconds
    headers = {} if wait is None else {"retry-after": str(whole_seconds(wait))}
    body = msgspec.json.encode({"success": False, "error": told})
    return Response(body, error.status, headers, "application/json")


def success(data: object) -> bytes:
    """The body of an answer that tells this."""
    return msgspec.json.encode({"success": True, "data": data})


def routes() -> list[Route]:
    """The routes of the contract."""
    return [
        _route("/api/v1/users/me", "GET", _users_me),
        _route("/api/v1/limits/external/{identity:path}", "GET", _limits),
        _route("/api/v1/usage/external/increment", "POST", _increment),
        _route("/api/v1/usage/external/batch-increment", "POST", _batch),
        _route("/api/v1/tiers/config", "GET", _tiers),
    ]


def _route(path: str, method: str, handler: Handler) -> Route:
    async def answered(request: Request) -> Response:
        # HEAD comes with GET; anything else is no method of this path.
        if request.method not in (method, "HEAD" if method == "GET" else method):
            return refusal(Refused(405, f"use {method}"))
        try:
            return await handler(request)
        except Refused as error:
            return refusal(error)
        except (DatabaseUnavailable, TimeoutError) as error:
            log.warning("the database fails", reason=str(error) or "no answer in time", route=path)
            return refusal(Refused(503, "the database is not available", 1))

    return Route(path, answered, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])


async def look_up(work: Callable[[], T]) -> T:
    """What this returns, which reads in a thread of its own. Raises TimeoutError where it takes too long."""
    async with asyncio.timeout(LOOK_UP_SECONDS):
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


def service_of(request: Request) -> Service:
    """The service that this request came to."""
    service: Service = request.app.state.service
    return service


def address_of(request: Request) -> str:
    """Where a request came from."""
    return request.client.host if request.client else ""


def bearer_of(request: Request) -> str | None:
    """The token of `Authorization: Bearer`, None without one."""
    scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def demand_key(request: Request, shown: str | None, key: SecretStr | None) -> None:
    """See that whoever asks has this key. Raises Refused."""
    service = service_of(request)
    if key is not None and shown is not None:
        expected = key.get_secret_value().encode()
        if hmac.compare_digest(shown.encode("latin-1", "replace"), expected):
            return
    wait = service.wait_after(service.wrong_keys, address_of(request))
    if wait:
        raise Refused(429, "too many wrong keys from this address", wait)
    raise Refused(401, "the key is missing or wrong")


# ------------------------------------------------------------------------------------------------------------- users


async def _users_me(request: Request) -> Response:
    service, token = service_of(request), bearer_of(request)
    if token is None:
        raise Refused(401, "users/me wants Authorization: Bearer with the user's token")
    try:
        caller = await look_up(lambda: service.caller(token))
    except UserDisabled:
        raise Refused(403, "this user is disabled") from None
    except IssuerUnavailable as error:
        log.warning("the issuer of tokens is away", reason=str(error))
        raise Refused(503, "the token cannot be verified: its issuer does not answer", 2) from error
    except TokenRefused as error:
        log.info("a token is refused", reason=str(error))
        if wait := service.wait_after(service.wrong_tokens, address_of(request)):
            raise Refused(429, "too many wrong tokens from this address", wait) from error
        raise Refused(401, "the token is unknown, expired or revoked") from error
    return Response(success(_profile(caller)), media_type="application/json")


def _profile(caller: Caller) -> dict[str, Any]:
    user = caller.user
    profile: dict[str, Any] = {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "externalId": user.external_id,
        "emailVerified": True,
        "createdAt": rfc3339(user.created_ms),
        "lastLoginAt": None if user.seen_ms is None else rfc3339(user.seen_ms),
    }
    if caller.expires_ms is not None:
        profile["expiresAt"] = rfc3339(caller.expires_ms)
    if caller.models is not None:
        profile["allowedModels"] = list(caller.models)
    return profile


# ------------------------------------------------------------------------------------------------------------ limits


async def _limits(request: Request) -> Response:
    _demand_api_key(request)
    service, identity = service_of(request), request.path_params["identity"]
    shape = request.query_params.get("shape", "one")
    if shape not in ("one", "three"):
        raise Refused(400, "shape must be one or three")

    def look() -> dict[str, Any] | None:
        with service.database.reading() as connection:
            account = ledger.account_of(connection, identity, service.now())
            if account is None:
                return None
            used = ledger.spent(connection, [account])[account.user_id]
        limits = _one_limit(account, used) if shape == "one" else _three_limits(account, used)
        return {"userId": account.user_id, "externalId": identity, "limits": limits}

    found = await look_up(look)
    if found is None:
        raise Refused(404, "no user has this external id")
    return Response(success(found), media_type="application/json")


def _demand_api_key(request: Request) -> None:
    demand_key(request, request.headers.get("x-api-key"), service_of(request).settings.governance_api_key)


def _one_limit(account: Account, used: Amounts) -> list[dict[str, Any]]:
    """One element with three metrics (contract 1.3, shape C)."""
    named = {"name": "ai_usage", "displayName": "AI usage", "unit": "mixed"}
    return [named | _metrics(account, used) | _period(account)]


def _three_limits(account: Account, used: Amounts) -> list[dict[str, Any]]:
    """An element for each metric (contract 1.3, shape A)."""
    return [
        {
            "limitId": f"lim_{number}",
            "name": name,
            "displayName": name.removeprefix("ai_").replace("_", " ").capitalize(),
            "unit": unit,
            **_metric(account.limits[number - 1], used[number - 1]),
            **_period(account),
        }
        for number, (name, unit) in enumerate(_DIMENSIONS, start=1)
    ]


def _metrics(account: Account, used: Amounts) -> dict[str, Any]:
    return {name: _metric(account.limits[d], used[d]) for d, name in enumerate(_METRICS)}


def _metric(limit: int | None, used: int) -> dict[str, Any]:
    return {"limit": limit, "used": used, "remaining": None if limit is None else limit - used}


def _period(account: Account) -> dict[str, Any]:
    period = account.period
    return {
        "resetPeriod": period.kind.upper(),
        "periodStart": _moment(period.start_moment),
        "periodEnd": _moment(period.last_second),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds").replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------------------- usage


async def _batch(request: Request) -> Response:
    _demand_api_key(request)
    raw = await _body(request)
    body = _json(raw)
    items = body.get("increments") if isinstance(body, dict) else None
    if not isinstance(items, list) or not items:
        raise Refused(400, "increments must be a non-empty array")
    if len(items) > MOST_ITEMS:
        raise Refused(413, f"increments must have at most {MOST_ITEMS} items")

    def answer(booked: list[Booked]) -> bytes:
        results = [_result(each) for each in booked]
        failed = sum(not result["success"] for result in results)
        return success({"processed": len(results), "failed": failed, "results": results})

    return await _report(request, raw, items, answer)


async def _increment(request: Request) -> Response:
    _demand_api_key(request)
    raw = await _body(request)

    def answer(booked: list[Booked]) -> bytes:
        (only,) = booked
        if only.account is None:
            # Not 404: that would say that there is no such call.
            raise Refused(400, only.error or "")
        limits = only.account.limits
        can_use = all(limit is None or used < limit for limit, used in zip(limits, only.used[:3], strict=True))
        return success({"canUse": can_use, **_metrics(only.account, only.used)})

    return await _report(request, raw, [_json(raw)], answer)


def _result(booked: Booked) -> dict[str, Any]:
    result = {"email": booked.email, "limitName": "ai_usage", "success": booked.account is not None}
    if booked.account is None:
        return result | {"error": booked.error}
    limits, used = booked.account.limits, booked.used
    return result | {name: {"newValue": used[d], "limit": limits[d]} for d, name in enumerate(_METRICS)}


async def _report(request: Request, raw: bytes, items: list[Any], answer: Callable[[list[Booked]], bytes]) -> Response:
    """Book these items, once for each Idempotency-Key; whoever repeats a report gets its first answer."""
    service, key = service_of(request), request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise Refused(400, "Idempotency-Key must have 1 to 255 visible ASCII characters")
    digest = sha256(request.url.path.encode() + b"\n" + raw).digest()

    def book() -> Answered:
        now = service.now()
        increments = [_read(item, now) for item in items]
        with service.database.writing() as connection:
            if key is not None:
                first = ledger.begin_report(service.database, connection, key, digest, now)
                if first is not None:
                    return first
            answered = Answered(200, answer(ledger.book(service.database, connection, increments, now)))
            if key is not None:
                ledger.keep_answer(connection, key, answered)
            return answered

    async with asyncio.timeout(TURN_SECONDS):
        await service.reports.acquire()
    try:
        answered = await run_in_threadpool(book)
    except KeyReused:
        raise Refused(422, "this Idempotency-Key came with another report before") from None
    finally:
        service.reports.release()
    return Response(answered.body, answered.status, media_type="application/json")


def _read(item: Any, now_ms: int) -> Increment | BadIncrement:
    try:
        return read_increment(item, now_ms)
    except BadIncrement as error:
        return error


async def _tiers(request: Request) -> Response:
    _demand_api_key(request)
    return Response(service_of(request).tiers, media_type="application/json")


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY_BYTES:
                raise Refused(413, f"the body must have at most {MOST_BODY_BYTES} bytes")
    except ClientDisconnect as error:
        raise Refused(400, "the body broke off") from error
    return bytes(body)


def _json(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "the body must be JSON") from error

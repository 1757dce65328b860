"""How the admin API tells errors, in the contract's envelope, and what its OpenAPI document says of them."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sentinel.governance.service.admin_models import Refusal
from sentinel.governance.service.contract_api import CODES, Refused, refusal
from sentinel.governance.service.database import DatabaseUnavailable
from sentinel.governance.service.directory import DirectoryError, Duplicate, InUse, NotFound

log = structlog.get_logger()

MOST_BODY_BYTES = 1024 * 1024
"""More than the longest list of models has, however it is escaped."""
KINDS: tuple[type[Exception], ...] = (
    HTTPException,
    RequestValidationError,
    DirectoryError,
    DatabaseUnavailable,
    Exception,
)
"""All that are told: the last one has whatever is none of the others."""


async def told(request: Request, error: Exception) -> Response:
    """The answer that tells an error of one of KINDS."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException) and error.status_code == 405:
        headers["allow"] = ", ".join(_methods(request))
    return answer(_refused(request, error), headers)


def answer(error: Refused, headers: dict[str, str] | None = None) -> Response:
    """The answer that tells a refusal, with these headers."""
    response = refusal(error)
    response.headers.update(headers or {})
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _refused(request: Request, error: Exception) -> Refused:
    match error:
        case RequestValidationError():
            return _invalid(error)
        case NotFound():
            return Refused(404, error.message, field=error.field)
        case Duplicate() | InUse():
            return Refused(409, error.message, field=error.field)
        case DirectoryError():
            return Refused(400, error.message, field=error.field)
        case DatabaseUnavailable():
            log.warning("the database fails", reason=str(error), route=getattr(request.scope.get("route"), "path", ""))
            return Refused(503, "the database is not available", 1)
        case HTTPException(status_code=404):
            return Refused(404, "there is no such route")
        case HTTPException(status_code=400):
            return Refused(400, "the body must be JSON")
        case HTTPException(status_code=405):
            return Refused(405, "this path has other methods")
        case HTTPException():
            return Refused(error.status_code, error.detail)
    return Refused(500, "an error of this service; its log has more")


def _invalid(error: RequestValidationError) -> Refused:
    first = error.errors()[0]
    _, *names = first["loc"]
    if first["type"] == "json_invalid":
        return Refused(400, "the body must be JSON")
    # A name may be the caller's own, and anything.
    field = ".".join(map(str, names)).encode("utf-8", "replace").decode()[:200]
    if not field:
        return Refused(400, "the body must be a JSON object with the fields there are, sent as application/json")
    return Refused(400, f"{field}: {first['msg'].removeprefix('Value error, ')}", field=field)


def _methods(request: Request) -> list[str]:
    """Those that the path of a request has, by the document."""
    path = getattr(request.scope.get("route"), "path", "")
    return sorted(method.upper() for method in request.app.openapi()["paths"].get(path, ("get",)))


# ------------------------------------------------------------------------------------------------------ the document

_MESSAGES = {
    400: "limit: Input should be less than or equal to 1000",
    401: "the key is missing or wrong",
    404: "there is no user 'bo@corp.test'; user list shows all",
    409: "there is a user 'ana@corp.test' already",
    413: f"the body must have at most {MOST_BODY_BYTES} bytes",
    429: "too many wrong keys from this address",
    500: "an error of this service; its log has more",
    503: "the database is not available",
}
_MEANINGS = {
    400: "What was sent cannot be; `field` tells which field, where it is one's",
    401: "The key is missing or wrong",
    404: "There is no such thing",
    409: "There is one already, or others need it",
    413: "The body is too large",
    429: "Too many wrong keys came from this address",
    500: "An error of this service",
    503: "The database does not answer",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How these errors are told, and those that all operations have."""
    told: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, 401, 429, 500, 503}):
        error = {"code": CODES.get(status, "INTERNAL_ERROR"), "message": _MESSAGES[status]}
        example = {"success": False, "error": error}
        told[status] = {
            "model": Refusal,
            "description": _MEANINGS[status],
            "content": {"application/json": {"example": example}},
        }
        if status in (429, 503):
            told[status]["headers"] = {
                "Retry-After": {"description": "Seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}
            }
    return told

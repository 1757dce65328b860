"""The admin API: plans, users, keys and usage over HTTP, as the commands have them, for who has GOVERNANCE_ADMIN_KEY.

FastAPI reads what comes (admin_models.py), and writes the OpenAPI document. Answers are the contract's envelopes. Paths
are taken apart before they are decoded, so that a name in one may have a slash.
"""

from __future__ import annotations

import re
from datetime import date
from functools import cache
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from pydantic import BeforeValidator
from sqlalchemy import Connection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sentinel import __version__
from sentinel.governance.service import api_keys, directory, ledger
from sentinel.governance.service.admin_errors import KINDS, MOST_BODY_BYTES, answer, errors, told
from sentinel.governance.service.admin_models import (
    KeyAnswer,
    Keys,
    NewKeyAnswer,
    NewKeyBody,
    NewUser,
    PlanAnswer,
    PlanChanges,
    Plans,
    Success,
    Text,
    Usage,
    UserAnswer,
    UserChanges,
    Users,
    UserUsageAnswer,
    in_schema,
    key_answer,
    new_key_answer,
    plan_answer,
    usage_answer,
    user_answer,
    user_usage_answer,
)
from sentinel.governance.service.contract_api import Refused, bearer_of, demand_key, service_of
from sentinel.governance.service.directory import NotFound
from sentinel.governance.service.service import Service
from sentinel.governance.service.usage_report import By, report_usage

T = TypeVar("T")

PREFIX = "/admin"
_DOCUMENT = "/openapi.json"
_LOCK = HTTPBearer(bearerFormat="key", scheme_name="adminKey", description="GOVERNANCE_ADMIN_KEY", auto_error=False)


def application(service: Service) -> FastAPI:
    """The ASGI application, to be mounted at PREFIX."""
    # Documentation pages would be loaded from somebody else's server.
    app = FastAPI(
        openapi_url=_DOCUMENT, docs_url=None, redoc_url=None, redirect_slashes=False, root_path_in_servers=False
    )
    app.state.service = service
    app.include_router(_router)
    app.add_middleware(_Gate)
    for kind in KINDS:
        app.add_exception_handler(kind, told)
    app.openapi = document  # type: ignore[method-assign]
    return app


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    described = get_openapi(
        title="Sentinel's governance: administration",
        version=__version__,
        summary="Plans, users, keys and usage of the built-in governance.",
        servers=[{"url": PREFIX}],
        routes=_router.routes,
    )
    for item in described["paths"].values():
        for operation in item.values():
            # FastAPI's own word for what we answer with 400.
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)
    return described


class _Gate:
    """Lets nobody in without the key, and no body that is too large; leaves the path as it came."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            if scope["path"] != PREFIX + _DOCUMENT:
                demand_key(request, bearer_of(request), service_of(request).settings.governance_admin_key)
            scope["path"] = _undecoded(scope)
        except Refused as error:
            await answer(error)(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST_BODY_BYTES:
                raise HTTPException(413, f"the body must have at most {MOST_BODY_BYTES} bytes")
            return message

        await self._app(scope, bounded, send)


def _undecoded(scope: Scope) -> str:
    path: str = scope["raw_path"].decode("ascii")
    try:
        decoded = unquote(path, errors="strict")
    except UnicodeDecodeError as error:
        raise Refused(404, "there is nothing of this name") from error
    if "\x00" in decoded:
        # No database has it in a text.
        raise Refused(404, "there is nothing of this name")
    return path


# -------------------------------------------------------------------------------------------------------- parameters


def _day(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        raise ValueError("must be a day, such as 2026-02-03")
    return value


_Named = Annotated[str, BeforeValidator(unquote)]
_PlanName = Annotated[_Named, Path(openapi_examples={"plan": {"value": "team"}})]
_AnyPlanName = Annotated[
    _Named, Path(openapi_examples={"plan": {"value": "team"}}, json_schema_extra=in_schema(directory.NAME))
]
_EmailAddress = Annotated[_Named, Path(openapi_examples={"user": {"value": "ana@corp.test"}})]
_KeyId = Annotated[_Named, Path(openapi_examples={"key": {"value": "key_0123456789abcdef"}})]
_After = Annotated[Text | None, Query(description="`next` of the page before")]
_Limit = Annotated[int, Query(ge=1, le=1_000)]
_Day = Annotated[date, BeforeValidator(_day)]

_router = APIRouter(dependencies=[Depends(_LOCK)], generate_unique_id_function=lambda route: route.name)


def _success(data: T) -> Success[T]:
    return Success(success=True, data=data)


# ------------------------------------------------------------------------------------------------------------- plans


@_router.get("/plans", tags=["plans"], responses=errors())
def list_plans(request: Request) -> Success[Plans]:
    """All plans, by name."""
    with service_of(request).database.reading() as connection:
        plans = directory.list_plans(connection)
    return _success(Plans(plans=[plan_answer(plan) for plan in plans]))


@_router.put(
    "/plans/{name}",
    tags=["plans"],
    responses={201: {"model": Success[PlanAnswer], "description": "The plan is new"}, **errors(400, 404, 413)},
)
def set_plan(request: Request, name: _AnyPlanName, body: PlanChanges, response: Response) -> Success[PlanAnswer]:
    """Make a plan, or change the one of this name. Proxies are told of a change at once."""
    service = service_of(request)
    with service.database.writing() as connection:
        response.status_code = 200 if _is_plan(connection, name) else 201
        plan = directory.set_plan(connection, name, body.model_dump(exclude_unset=True), service.now())
    return _success(plan_answer(plan))


def _is_plan(connection: Connection, name: str) -> bool:
    try:
        directory.plan(connection, name)
    except NotFound:
        return False
    return True


@_router.get("/plans/{name}", tags=["plans"], responses=errors(404))
def get_plan(request: Request, name: _PlanName) -> Success[PlanAnswer]:
    """A plan."""
    with service_of(request).database.reading() as connection:
        return _success(plan_answer(directory.plan(connection, name)))


@_router.delete("/plans/{name}", tags=["plans"], responses=errors(404, 409))
def delete_plan(request: Request, name: _PlanName) -> Success[PlanAnswer]:
    """Delete a plan that nobody has; the answer is what it was."""
    with service_of(request).database.writing() as connection:
        plan = directory.plan(connection, name)
        directory.delete_plan(connection, name)
    return _success(plan_answer(plan))


# ------------------------------------------------------------------------------------------------------------- users


@_router.get("/users", tags=["users"], responses=errors(400, 404))
def list_users(request: Request, after: _After = None, limit: _Limit = 100, plan: Text | None = None) -> Success[Users]:
    """Users by e-mail address, of one plan or of all."""
    with service_of(request).database.reading() as connection:
        if plan is not None:
            directory.plan(connection, plan)
        found = directory.list_users(connection, after=after or "", limit=limit + 1, plan_name=plan)
    users = [user_answer(user) for user in found[:limit]]
    return _success(Users(users=users, next=users[-1].email if len(found) > limit else None))


@_router.post("/users", tags=["users"], status_code=201, responses=errors(400, 404, 409, 413))
def add_user(request: Request, body: NewUser) -> Success[UserAnswer]:
    """Add a user. 404 where there is no such plan."""
    service = service_of(request)
    with service.database.writing() as connection:
        user = directory.add_user(
            connection,
            body.email,
            body.plan,
            service.now(),
            external_id=body.external_id,
            name=body.name,
            team=body.team,
        )
    return _success(user_answer(user))


@_router.get("/users/{email}", tags=["users"], responses=errors(404))
def get_user(request: Request, email: _EmailAddress) -> Success[UserUsageAnswer]:
    """A user, with what they may spend in the current period, have spent, and when the next one begins."""
    service = service_of(request)
    with service.database.reading() as connection:
        user = directory.user(connection, email)
        account = ledger.account_by_email(connection, email, service.now())
        assert account is not None
        used = ledger.spent(connection, [account])[account.user_id]
    return _success(user_usage_answer(user, account, used))


@_router.patch("/users/{email}", tags=["users"], responses=errors(400, 404, 413))
def change_user(request: Request, email: _EmailAddress, body: UserChanges) -> Success[UserAnswer]:
    """Change a user's plan or team, disable or enable them. Proxies are told at once. 404: no such user or plan."""
    service = service_of(request)
    changes = body.model_dump(exclude_unset=True)
    if "plan" in changes:
        changes["plan_name"] = changes.pop("plan")
    with service.database.writing() as connection:
        return _success(user_answer(directory.change_user(connection, email, service.now(), **changes)))


# -------------------------------------------------------------------------------------------------------------- keys


@_router.post("/users/{email}/keys", tags=["keys"], status_code=201, responses=errors(400, 404, 413))
def add_key(request: Request, email: _EmailAddress, body: NewKeyBody) -> Success[NewKeyAnswer]:
    """Give a user a key. It is in this answer, and nowhere else."""
    service, new = service_of(request), api_keys.new_key()
    now, seconds = service.now(), body.expires_in_seconds
    expires_ms = None if seconds is None else now + seconds * 1000
    with service.database.writing() as connection:
        key = directory.add_key(connection, email, new, now, name=body.name, expires_ms=expires_ms)
    return _success(new_key_answer(key, new.key))


@_router.get("/users/{email}/keys", tags=["keys"], responses=errors(404))
def list_keys(request: Request, email: _EmailAddress) -> Success[Keys]:
    """The keys of a user, the oldest first, with those that were revoked."""
    with service_of(request).database.reading() as connection:
        return _success(Keys(keys=[key_answer(key) for key in directory.list_keys(connection, email)]))


@_router.delete("/keys/{id}", tags=["keys"], responses=errors(404))
def revoke_key(request: Request, id: _KeyId) -> Success[KeyAnswer]:  # noqa: A002 (as the path has it)
    """Revoke a key for good. Proxies are told at once."""
    service = service_of(request)
    with service.database.writing() as connection:
        return _success(key_answer(directory.revoke_key(connection, id, service.now())))


# ------------------------------------------------------------------------------------------------------------- usage


@_router.get("/usage", tags=["usage"], responses=errors(400))
def get_usage(
    request: Request,
    by: By = "user",
    since: Annotated[_Day | None, Query(description="the first day, in UTC")] = None,
    until: Annotated[_Day | None, Query(description="the last day, in UTC")] = None,
    after: _After = None,
    limit: _Limit = 100,
) -> Success[Usage]:
    """What users, teams, models or days have spent. Where lines are days, `after` must be one (else 400)."""
    with service_of(request).database.reading() as connection:
        lines = list(report_usage(connection, by, since=since, until=until, after=after, limit=limit + 1))
    shown = [usage_answer(line) for line in lines[:limit]]
    return _success(Usage(by=by, usage=shown, next=shown[-1].group if len(lines) > limit else None))

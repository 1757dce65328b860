"""The service: assembled from its parts, served over HTTP, with what goes on in the background."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Message, Receive, Scope, Send

from sentinel.clock import monotonic
from sentinel.config import ConfigError
from sentinel.egress import Egress, TlsFiles
from sentinel.governance.service import admin_api, contract_api, ledger
from sentinel.governance.service.contract_api import Refused, look_up, refusal, service_of, success
from sentinel.governance.service.database import Database, DatabaseUnavailable
from sentinel.governance.service.notices import Teller, forget_notices
from sentinel.governance.service.oidc.issuer import Issuer
from sentinel.governance.service.oidc.settings import OidcSettings
from sentinel.governance.service.service import Service
from sentinel.governance_settings import GovernanceSettings
from sentinel.server.process import run_server

log = structlog.get_logger()

_TIDY_SECONDS = 600.0
_NO_TIERS: dict[str, Any] = {
    "version": "0",
    "updatedAt": "2000-01-01T00:00:00Z",
    "tiers": {"simple": [], "moderate": [], "complex": []},
}
SHUTDOWN_SECONDS = 10


def build(settings: GovernanceSettings) -> Service:
    """The service, with its database brought up to date. Raises ConfigError with every mistake."""
    tiers, mistakes = _tiers(settings.governance_tiers_file)
    mistakes = settings.mistakes_of_service() + mistakes
    issuer = None
    if settings.oidc_issuer and settings.oidc_audience:
        try:
            issuer = _issuer(settings, settings.oidc_issuer)
        except ValueError as error:
            mistakes.append(f"OIDC_ISSUER: {error}")
    if mistakes:
        raise ConfigError(mistakes)
    return Service(settings, open_database(settings), success(tiers), issuer)


def _issuer(settings: GovernanceSettings, url: str) -> Issuer:
    """Whose tokens are taken. Raises ValueError."""
    oidc = OidcSettings(
        issuer=url,
        audiences=settings.oidc_audience,
        email_claim=settings.oidc_email_claim,
        external_id_claim=settings.oidc_external_id_claim,
        plan_claim=settings.oidc_plan_claim,
    )
    return Issuer(oidc, Egress(tls=TlsFiles(settings.oidc_ca_file)))


def open_database(settings: GovernanceSettings) -> Database:
    """The database, brought up to date. Raises ConfigError."""
    database = Database(settings)
    try:
        database.migrate()
    except DatabaseUnavailable as error:
        database.close()
        place = settings.sqlite_file or "PostgreSQL"
        raise ConfigError([f"GOVERNANCE_DATABASE_URL: {place} cannot be used: {error}"]) from error
    except ConfigError:
        database.close()
        raise
    return database


def _tiers(path: str | None) -> tuple[Any, list[str]]:
    if path is None:
        return _NO_TIERS, []
    try:
        tiers = msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        return None, [f"GOVERNANCE_TIERS_FILE: {path} cannot be read: {error.strerror}"]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, [f"GOVERNANCE_TIERS_FILE: {path} must be JSON, as the `data` of GET /api/v1/tiers/config"]
    if not isinstance(tiers, dict) or not isinstance(tiers.get("tiers"), dict):
        return None, [f"GOVERNANCE_TIERS_FILE: {path} must have `tiers` with simple, moderate and complex"]
    return tiers, []


def application(service: Service) -> Starlette:
    """The ASGI application. Its background work begins and ends with it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            await run_in_threadpool(_start_background, service, stack)
            yield
            await run_in_threadpool(stack.close)

    routes: list[BaseRoute] = [Route("/health", _health), *contract_api.routes()]
    if service.settings.governance_admin_key is not None:
        routes.append(Mount(admin_api.PREFIX, admin_api.application(service)))
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: _not_found, Exception: _failed})
    app.router.redirect_slashes = False
    app.state.service = service
    app.add_middleware(_LogLine)
    return app


def _start_background(service: Service, stack: contextlib.ExitStack) -> None:
    stack.callback(service.database.close)
    if service.issuer is not None:
        stack.callback(service.issuer.close)
    settings = service.settings
    if settings.governance_proxies and settings.admin_key is not None:
        teller = Teller(service.database, settings.governance_proxies, settings.admin_key, service.now)
        teller.start()
        stack.callback(teller.close)
    ended = threading.Event()
    tidying = threading.Thread(target=_tidy, args=(service, ended.wait), name="tidy", daemon=True)
    tidying.start()
    stack.callback(tidying.join, 5)
    stack.callback(ended.set)


def _tidy(service: Service, wait: Callable[[float], bool]) -> None:
    """Forget what helps nobody any more, until `wait` says that it is over."""
    while True:
        try:
            forget_notices(service.database, service.now())
            forgotten = 1
            while forgotten:
                with service.database.writing() as connection:
                    forgotten = ledger.forget_reports(connection, service.now())
        except DatabaseUnavailable as error:
            log.warning("the database fails", reason=str(error), work="tidy")
        if wait(_TIDY_SECONDS):
            return


async def _health(request: Request) -> Response:
    try:
        await look_up(service_of(request).database.ping)
    except (DatabaseUnavailable, TimeoutError):
        return Response(msgspec.json.encode({"status": "unhealthy"}), 503, media_type="application/json")
    return Response(msgspec.json.encode({"status": "healthy"}), media_type="application/json")


async def _not_found(_: Request, __: Exception) -> Response:
    return refusal(Refused(404, "there is no such route"))


async def _failed(_: Request, __: Exception) -> Response:
    return refusal(Refused(500, "an error of this service; its log has more"))


class _LogLine:
    """Leaves a line in the log for each request, without what it was about: that may be an e-mail address."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = monotonic(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            # What is mounted tells its routes without where that is.
            found = scope.get("route")
            route = scope.get("root_path", "") + ("" if isinstance(found, Mount) else getattr(found, "path", ""))
            took_ms = round((monotonic() - began) * 1000, 1)
            log.info("governance answered", method=scope["method"], route=route, status=status, took_ms=took_ms)


def serve(settings: GovernanceSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. Raises ConfigError."""
    service = build(settings)
    host, port = settings.governance_host, settings.governance_port
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise ConfigError(
            [f"GOVERNANCE_HOST, GOVERNANCE_PORT: cannot listen on {host} port {port}: {reason}"]
        ) from error
    config = uvicorn.Config(
        application(service),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    log.info("governance listens", host=host, port=port)
    with listener:
        return run_server(uvicorn.Server(config), [listener])

"""Serves the ASGI application: its address, one process or several, its end. What a connection does: connection.py."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import uvicorn

from sentinel.config import ConfigError, Settings
from sentinel.server.listeners import BACKLOG, listeners_for
from sentinel.server.open_files import allow_many_files
from sentinel.server.process import ENDED_AT_ONCE, Server, run_server
from sentinel.server.workers import Supervisor


def config_for(app: Any, settings: Settings, *, factory: bool = False) -> uvicorn.Config:
    """Uvicorn's settings for ours."""
    return uvicorn.Config(
        app,
        factory=factory,
        host=settings.sentinel_host,
        port=settings.sentinel_port,
        workers=settings.sentinel_workers,
        loop="uvloop",
        http="sentinel.server.connection:HttpConnection",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_seconds)),
    )


def serve(settings: Settings, path: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. Raises ConfigError for an address that cannot be had.

    path: the import string of a function that makes the application.
    """
    allow_many_files()
    listeners = listeners_for(settings)
    config = config_for(path, settings, factory=True)
    if settings.sentinel_workers == 1:
        return run_server(Server(config), listeners)
    supervisor = Supervisor(config, sockets=listeners)
    with _folder_for_metrics() as folder:
        # prometheus-client reads this where it is imported, that is in the workers, which inherit it.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # noqa: TID251 (a message to a library, not a setting)
        supervisor.run()
    if supervisor.ended_at_once:
        return ENDED_AT_ONCE
    # A worker that a signal ended has a negative code; one that could not start, a positive one.
    return max(0, *(process.exitcode or 0 for process in supervisor.processes))


def _folder_for_metrics() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="sentinel-metrics-")
    except OSError as error:
        raise ConfigError(
            [f"SENTINEL_WORKERS: several workers need a temporary folder for their metrics (TMPDIR): {error.strerror}"]
        ) from error

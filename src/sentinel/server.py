"""Serves the ASGI application with uvicorn: its address, workers, signals. Connections: connection.py."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
from typing import Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.supervisors import Multiprocess

from sentinel.config import ConfigError, Settings

_BACKLOG = 4096
_ACCEPTS_AT_ONCE = 16
"""libuv takes one connection from a listening socket in each turn of the loop; of 1,000 that came together under full
load the last waited for four seconds. The event loop gets the socket so many times."""
_MOST_FILES = 65_536
"""Open files of a process: 30,000 streams, with a socket on either side. A process that holds more has other limits."""
_PR_SET_PDEATHSIG = 1


def config_for(app: Any, settings: Settings, *, factory: bool = False) -> uvicorn.Config:
    """Uvicorn's settings for ours."""
    return uvicorn.Config(
        app,
        factory=factory,
        host=settings.sentinel_host,
        port=settings.sentinel_port,
        workers=settings.sentinel_workers,
        loop="uvloop",
        http="sentinel.connection:HttpProtocol",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_seconds)),
    )


def listeners_for(settings: Settings) -> list[socket.socket]:
    """A socket bound to SENTINEL_HOST and SENTINEL_PORT, several times; it refuses connections until a server listens.

    Raises ConfigError where the address cannot be had.
    """
    host, port = settings.sentinel_host, settings.sentinel_port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or "no such address"
        raise ConfigError([f"SENTINEL_HOST, SENTINEL_PORT: cannot listen on {host} port {port}: {reason}"]) from error
    return [listener, *(listener.dup() for _ in range(_ACCEPTS_AT_ONCE - 1))]


def serve(settings: Settings, path: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. Raises ConfigError for an address that cannot be had.

    path: the import string of a function that makes the application.
    """
    allow_many_files()
    listeners = listeners_for(settings)
    config = config_for(path, settings, factory=True)
    if settings.sentinel_workers == 1:
        return run(uvicorn.Server(config), listeners)
    # prometheus-client reads this where it is imported, that is in the workers, which inherit it.
    with tempfile.TemporaryDirectory(prefix="sentinel-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # noqa: TID251 (a message to a library, not a setting)
        supervisor = Multiprocess(config, sockets=listeners)
        supervisor.run()
    # A worker that a signal ended has a negative code; one that could not start, a positive one.
    return max(0, *(process.exitcode or 0 for process in supervisor.processes))


def allow_many_files() -> None:
    """Let this process, and the workers that it starts, have as many open files as the hard limit allows.

    The soft limit is 1024 in most places, for the sake of programs that call select(); clients that connect and say
    nothing would keep all others out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        # Some systems have a maximum that getrlimit does not tell; fewer files are no reason not to start.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run(server: uvicorn.Server, listeners: list[socket.socket]) -> int:
    """Run a server in this process until a signal has ended it in good order; returns the exit status."""
    # Once all is done uvicorn sends itself the signal that it was ended by. An orderly end is no death by signal.
    for number in HANDLED_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))
    server.run(sockets=listeners)
    return 0


def die_with_parent() -> None:
    """End this worker when its supervisor is killed: a worker of nobody would hold the port (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and os.getppid() != supervisor.pid:
        # It was killed before we asked to be told.
        raise SystemExit(1)

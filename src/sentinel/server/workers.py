"""Several serving processes on one address (SENTINEL_WORKERS), and their supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing import resource_tracker
from typing import Any

from uvicorn.supervisors import Multiprocess, multiprocess

from sentinel.server.process import HELD_BACK, LOOK_SECONDS, SOON_SECONDS, Server

_PR_SET_PDEATHSIG = 1


class Worker(multiprocess.Process):
    """uvicorn's worker with our server in it."""

    def start(self) -> None:
        """Start it with signals held back until its server listens; Ctrl-C would end in a traceback."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        try:
            # The tracker is started with the first worker otherwise, and lets Ctrl-C pass again.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)

    @property
    def server(self) -> Server:
        """The server of this worker."""
        if not isinstance(self._server, Server):
            self._server = Server(self.config)
        return self._server


# uvicorn's supervisor makes its workers by this name, at the start and whenever one has died.
multiprocess.Process = Worker  # type: ignore[misc]


class Supervisor(Multiprocess):
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
            living[0].join(LOOK_SECONDS)


def _end_at_once(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGINT)
    process.join(SOON_SECONDS)
    process.kill()


def die_with_parent() -> None:
    """End this worker when its supervisor is killed: a worker of nobody would hold the port (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and os.getppid() != supervisor.pid:
        # It was killed before we asked to be told.
        raise SystemExit(1)

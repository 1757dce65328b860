"""One serving process: uvicorn's server under our signals, from its start to its end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from sentinel.tasks import Tasks

log = structlog.get_logger()

FLUSH_SECONDS = 10.0
"""How long the last usage may take to reach Zion; it stays in Redis otherwise."""
ENDED_AT_ONCE = 130
"""Exit status after a second Ctrl-C, as shells have it for SIGINT."""
FAILED_TO_START = 1
HELD_BACK = {signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
"""What a worker hears of once its server listens to it: it would end in the middle of its imports, as SIGTERM may."""
LOOK_SECONDS = 0.0625
SOON_SECONDS = 1.0
"""What ends within this needs no explanation."""


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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
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
            app: Any = self.config.loaded_app
            await app.reload()
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
            await asyncio.wait([ending], timeout=LOOK_SECONDS)
            if self.force_exit:
                self._cut()
            looks += not self.server_state.tasks
            if looks * LOOK_SECONDS == SOON_SECONDS:
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


def run_server(server: uvicorn.Server, listeners: list[socket.socket]) -> int:
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

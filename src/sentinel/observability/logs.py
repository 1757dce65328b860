"""Logs: structlog, JSON lines on stdout, written by a thread so that a slow reader of stdout never holds the loop.

A line waits at most BATCH_SECONDS. When stdout is stuck and MOST_LINES wait, further lines are dropped and counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import structlog

BATCH_SECONDS = 0.05
MOST_LINES = 50_000

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def log_name(user: str) -> str:
    """A user's name in logs: the id, or a digest of one that is an e-mail address, for no log may hold that (P4)."""
    return "sha256:" + hashlib.sha256(user.encode()).hexdigest()[:16] if "@" in user else user


class LineWriter:
    """A file for structlog's BytesLogger: takes lines at once, writes them in batches."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._some = threading.Event()
        self._closed = False
        self._end = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take a line, with its line end."""
        if self._closed:
            self._write_all([line])
            return
        if len(self._lines) >= MOST_LINES:
            self.dropped += 1
            return
        self._lines.append(line)
        if not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """Nothing: a line is flushed by itself."""

    def close(self) -> None:
        """Write what waits, within a second; what comes later is written at once."""
        self._closed = True
        self._end.set()
        self._some.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closed or self._lines:
            self._some.wait()
            if not self._closed:
                self._end.wait(BATCH_SECONDS)
            self._some.clear()
            self._write_all([self._lines.popleft() for _ in range(len(self._lines))])

    def _write_all(self, lines: list[bytes]) -> None:
        try:
            for piece in _pieces(lines):
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._fd, view) :]
        except OSError:
            # Nobody reads our stdout any more. That must not end the service.
            self.dropped += len(lines)


def _pieces(lines: list[bytes]) -> Iterator[bytes]:
    """Lines put together up to PIPE_BUF: such a write is atomic, so the lines of several workers do not mix."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > select.PIPE_BUF:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)


def _render(_: Any, __: str, event: structlog.typing.EventDict) -> bytes:
    return msgspec.json.encode({name: value for name, value in event.items() if value is not None}, enc_hook=str)


class _ToStructlog(logging.Handler):
    """Lets what libraries say through the standard module come out in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        event = {"logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info  # type: ignore[assignment]
        structlog.get_logger().log(record.levelno, record.getMessage(), **event)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Before `configure`: nothing below critical is logged meanwhile, for whoever runs this says it otherwise."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.reset_defaults()


def configure(level: str, fd: int = 1) -> LineWriter:
    """Set up all logging of this process; call once, before the first line."""
    writer = LineWriter(fd)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(file=writer),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    # The libraries' own chatter (one line per connection, per request) is of no use to operators.
    root.setLevel(max(logging.WARNING, _LEVELS[level]))
    return writer

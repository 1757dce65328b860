"""`sentinel serve` with a stopwatch on its event loop: `python stopwatch.py FILE` writes every long callback there.

It runs on Python's own loop, not on uvloop, for there each callback goes through one method that can be wrapped. What
is measured is CPU time of the loop's thread: wall time on a busy machine tells of its other processes. Connections of
that loop end in a cycle, which uvloop's do not. It is undone: to collect thousands of them takes a tenth of a second.
"""

from __future__ import annotations

import json
import sys
import time
from asyncio import events, selector_events
from typing import Any

import uvicorn

from sentinel import cli
from sentinel.server import serve

LONG_MS = 0.5
"""Shorter callbacks are of no interest."""


def main(file: str) -> int:
    """Serve, and append a line with the moment, the CPU time and the name of each long callback to the file."""
    with open(file, "a", buffering=1) as lines:  # noqa: PTH123 (a line must not wait for the others)
        _watch(lines)
        config_for = serve.config_for

        def on_pythons_loop(*args: Any, **options: Any) -> uvicorn.Config:
            config = config_for(*args, **options)
            config.loop = "asyncio"
            return config

        serve.config_for = on_pythons_loop
        return cli.main(["serve"])


def _watch(lines: Any) -> None:
    # What is private to asyncio has no types.
    handles: Any = events.Handle
    transports: Any = vars(selector_events)["_SelectorSocketTransport"]
    run = handles._run

    def timed(handle: Any) -> None:
        callback = handle._callback
        before = time.thread_time()
        run(handle)
        spent_ms = (time.thread_time() - before) * 1000
        if spent_ms > LONG_MS:
            lines.write(json.dumps({"at": time.monotonic(), "ms": spent_ms, "what": repr(callback)[:300]}) + "\n")

    handles._run = timed

    lost = transports._call_connection_lost

    def freed(transport: Any, error: Any) -> None:
        lost(transport, error)
        transport._read_ready_cb = transport._write_ready = None

    transports._call_connection_lost = freed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))

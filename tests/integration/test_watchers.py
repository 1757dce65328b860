"""A watcher of the benchmark tells from when to when it was held up (`bench/watchers.py`)."""

from __future__ import annotations

import os
import signal
import time

from bench.watchers import STALL_SECONDS, watching
from tests.support.waiting import wait_until


def test_a_watcher_tells_when_it_could_not_run() -> None:
    """One that is stopped for a while, as by a host that takes the core away, has seen all of that time."""
    core = min(os.sched_getaffinity(0))
    with watching([core], priority=0) as watchers:
        begin = time.monotonic()
        os.kill(watchers.processes[core].pid, signal.SIGSTOP)
        stopped = time.monotonic()
        # Nothing tells when a clock has gone on.
        wait_until(lambda: time.monotonic() > stopped + 0.05, "50 ms")
        resumed = time.monotonic()
        os.kill(watchers.processes[core].pid, signal.SIGCONT)
        wait_until(lambda: any(stall.end > resumed for stall in watchers.stalls(begin)), "the stall")
        seen = next(stall for stall in watchers.stalls(begin) if stall.end > resumed)
    assert seen.begin <= stopped + STALL_SECONDS
    assert seen.end - seen.begin >= 0.05


def test_watching_nothing_sets_nothing_apart() -> None:
    with watching([]) as watchers:
        assert watchers.stalls(0.0) == []

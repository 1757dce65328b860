"""The two clocks. Everything else gets its moments from here or as arguments, so that tests can turn them."""

import time

monotonic = time.monotonic
"""Seconds for durations and deadlines."""


def now_ms() -> int:
    """Wall clock, milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000

"""The two clocks. Everything else gets its moments from here or as arguments, so that tests can turn them."""

import time

from sentinel.timestamp import rfc3339

monotonic = time.monotonic
"""Seconds for durations and deadlines."""


def now_ms() -> int:
    """Wall clock, milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def now_ns() -> int:
    """Wall clock, nanoseconds since the Unix epoch."""
    return time.time_ns()


def utc_now() -> str:
    """The wall clock as RFC 3339 text with milliseconds."""
    return rfc3339(now_ms())

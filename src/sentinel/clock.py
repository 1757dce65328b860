"""The two clocks. Everything else gets its moments from here or as arguments, so that tests can turn them."""

import time
from datetime import UTC, datetime
from functools import lru_cache

monotonic = time.monotonic
"""Seconds for durations and deadlines."""


def now_ms() -> int:
    """Wall clock, milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def utc_now() -> str:
    """The wall clock as RFC 3339 text with milliseconds."""
    return rfc3339(now_ms())


def rfc3339(ms: int) -> str:
    """A moment, in milliseconds since the Unix epoch: UTC, milliseconds, `Z`."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]

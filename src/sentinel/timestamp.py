"""Moments as text."""

from datetime import UTC, datetime
from functools import lru_cache


def rfc3339(ms: int) -> str:
    """A moment, in milliseconds since the Unix epoch: UTC, milliseconds, `Z`."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


def rfc3339_seconds(ms: int) -> str | None:
    """A moment, rounded up to the second: UTC. None for never (0), and for what no calendar holds."""
    try:
        return datetime.fromtimestamp(-(-ms // 1000), UTC).isoformat() if ms else None
    except (OverflowError, ValueError, OSError):
        return None


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]

"""The wall clock of the simulators: outside services have their own time, so they do not share Sentinel's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Tell the time, aware, in UTC."""
    return datetime.fromtimestamp(unix_seconds(), UTC)


def unix_seconds() -> float:
    """Tell the time as seconds since the Unix epoch."""
    return time.time()  # noqa: TID251  The one place in this room that reads the clock.

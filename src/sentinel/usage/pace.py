"""Spreads the steps of a delivery over the time until the next one, so that requests come between them.

Delivered as fast as it goes, a second's usage of 1,000 users holds up requests for 100 ms: on a busy core p99 was 15 ms
so, and 7 ms without any delivery (docs/performance.md).
"""

from __future__ import annotations

from sentinel.clock import monotonic
from sentinel.tasks import pause

_SHARE = 0.8
"""Of the time between two deliveries. What is over then goes without pauses: a delivery must keep up."""

_MOST_SECONDS = 0.02
"""After one step. A few records shall not take longer than they must."""


class Pace:
    """The pace of one process' deliveries, of which one is begun every `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds * _SHARE
        self._until = 0.0
        self._steps = self._last = 0

    def begin(self) -> None:
        """A delivery begins: it will have as many steps as the last one, as a rule."""
        self._last, self._steps = max(1, self._steps), 0
        self._until = monotonic() + self._seconds

    @property
    def is_over(self) -> bool:
        """Whether this delivery is behind, and goes as fast as it can."""
        return monotonic() >= self._until

    def hurry(self) -> None:
        """No more pauses in this delivery."""
        self._until = 0.0

    async def step(self) -> None:
        """A step is done, of a millisecond or less: wait before the next."""
        self._steps += 1
        left = self._until - monotonic()
        if left > 0:
            await pause(min(left, _MOST_SECONDS, self._seconds / self._last))

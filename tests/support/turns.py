"""The turns of an event loop in the test's own process, timed.

What is measured is CPU time of the loop's thread; of several rounds the best counts, for a busy machine has slow ones.
"""

from __future__ import annotations

import selectors
import time


class TimedSelector(selectors.DefaultSelector):
    """A loop's selector. longest: CPU seconds of the loop's longest turn since `begin`."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        """Forget the turns so far, and what was done in this one."""
        self.longest, self._since = 0.0, time.thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for what is ready; whatever was done since it was last asked was a turn."""
        self.longest = max(self.longest, time.thread_time() - self._since)
        ready = super().select(timeout)
        self._since = time.thread_time()
        return ready

"""How fast deliveries go: towards Redis (`Pacer`), and towards the governance (`CallPacer`).

`Pacer` spreads the steps of a delivery over the time until the next one, so that requests come between them.

Delivered as fast as it goes, a second's usage of 1,000 users holds up requests for 100 ms: on a busy core p99 was 15 ms
so, and 7 ms without any delivery (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sentinel.clock import monotonic
from sentinel.tasks import pause

R = TypeVar("R")
T = TypeVar("T")

_SHARE = 0.8
"""Of the time between two deliveries. What is over then goes without pauses: a delivery must keep up."""

_MOST_SECONDS = 0.02
"""After one step. A few records shall not take longer than they must."""


class Pacer:
    """The pace of one process' deliveries, of which one is begun every `seconds`."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = monotonic,
        wait: Callable[[float], Awaitable[None]] = pause,
    ) -> None:
        self._seconds = seconds * _SHARE
        self._clock, self._wait = clock, wait
        self._until = 0.0
        self._steps = self._last = 0

    def begin(self) -> None:
        """A delivery begins: it will have as many steps as the last one, as a rule."""
        self._last, self._steps = max(1, self._steps), 0
        self._until = self._clock() + self._seconds

    def hurry(self) -> None:
        """No more pauses in this delivery."""
        self._until = 0.0

    async def step(self) -> None:
        """A step is done, of a millisecond or less: wait before the next."""
        self._steps += 1
        left = self._until - self._clock()
        if left > 0:
            await self._wait(min(left, _MOST_SECONDS, self._seconds / self._last))

    async def run(self, work: Callable[[T], Awaitable[R]], portions: Sequence[T]) -> list[R]:
        """The results of this work on all portions, one after the other, a step each."""
        done: list[R] = []
        for portion in portions:
            done.append(await work(portion))
            await self.step()
        return done


class CallPacer:
    """Spaces the calls to the governance. All processes share `calls_per_second`; processes: how many there are."""

    def __init__(
        self,
        calls_per_second: float,
        processes: Callable[[], int],
        clock: Callable[[], float] = monotonic,
        wait: Callable[[float], Awaitable[None]] = pause,
    ) -> None:
        self._seconds = 1 / calls_per_second
        self._clock, self._wait = clock, wait
        self._processes = processes
        self._next_call = 0.0

    async def wait(self) -> None:
        """Wait for this process's next turn."""
        now = self._clock()
        start = max(now, self._next_call)
        self._next_call = start + self._seconds * self._processes()
        if start > now:
            await self._wait(start - now)

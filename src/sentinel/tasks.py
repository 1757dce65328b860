"""Background tasks that are named, referenced, and waited for at shutdown; and threads that let others go first."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from sentinel.clock import monotonic

log = structlog.get_logger()

pause = asyncio.sleep
"""Wait some seconds. The one name for it, so that every place that waits can be found."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
WELL_AFTER_SECONDS = 60.0
"""A task that was started again is well when it has run for so long."""


class Tasks:
    """Holds the tasks that outlive the call that started them.

    on_failure is told the name of a task that is for ever, whenever it ends with an error. clock, wait: in seconds.
    """

    def __init__(
        self,
        on_failure: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = monotonic,
        wait: Callable[[float], Awaitable[None]] = pause,
    ) -> None:
        self._clock, self._wait = clock, wait
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure
        self._failed_at: dict[str, float] = {}

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` beside the caller. An exception in it is logged, never lost."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[Any]:
        """Run `work` beside the caller for ever: should it end with an error, it is started again, after a pause."""
        return self.start(self._keep(work, name), name)

    async def _keep(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        seconds = 0.0
        while True:
            started = self._clock()
            try:
                await work()
            except Exception:
                if self._clock() - started > WELL_AFTER_SECONDS:
                    seconds = 0.0
                seconds = min(_LONGEST_PAUSE_SECONDS, max(_FIRST_PAUSE_SECONDS, 2 * seconds))
                self._failed_at[name] = self._clock()
                self._on_failure(name)
                log.exception("background task failed, it is started again", task=name, seconds=seconds)
                await self._wait(seconds)
            else:
                return

    @property
    def failing(self) -> list[str]:
        """The tasks that are for ever and have failed in the last minute."""
        since = self._clock() - WELL_AFTER_SECONDS
        return sorted(name for name, failed_at in self._failed_at.items() if failed_at > since)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background task failed", task=task.get_name(), exc_info=error)

    async def finish(self, seconds: float) -> None:
        """Wait up to `seconds` for all tasks to end by themselves, then cancel what is left and wait for that."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        await self.cancel()

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


_NICE = 10
_SLICE_NS = 100_000_000
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call; Python has no name for it, nor has the C library before 2.41."""
_SWITCH_SECONDS = 0.0005


def patient_threads(most: int, name: str) -> ThreadPoolExecutor:
    """Threads for long work beside an event loop on the same core: they have a tenth of it while the loop wants it.

    Beside a megabyte of dashes, which take half a second to count, p99 of small requests is 7 ms so, 15 ms if these
    threads are only nice, and 31 ms if they are like the loop's own.
    """
    return ThreadPoolExecutor(most, name, initializer=_stand_back)


def _stand_back() -> None:
    # Of this thread alone; elsewhere than on Linux it would be the whole process. A sandbox may refuse to let a thread
    # change its priority at all: then it counts with the one it has, for an error here is the end of all these threads.
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.nice(_NICE)
        _give_way_at_once(os.getpriority(os.PRIO_PROCESS, 0))


def _give_way_at_once(nice: int) -> None:
    """Ask for long slices: whoever wakes with a shorter one goes first, at once instead of at the next tick (4 ms).

    Since Linux 6.12 (EEVDF's PREEMPT_SHORT, sched_setattr(2)); others do not mind, and who may not stays as it is.
    """
    if (number := _SCHED_SETATTR.get(platform.machine())) is not None:
        # size, policy, flags, nice, priority, runtime, deadline, period
        wanted = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, wanted, 0)


def give_memory_back() -> None:
    """Have the C library give to the system what is free; only glibc keeps it, and has this. Takes a millisecond."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def hand_over_soon() -> None:
    """Have threads that run Python give way to one another after 0.5 ms, not 5: the event loop is one of them."""
    sys.setswitchinterval(_SWITCH_SECONDS)

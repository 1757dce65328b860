"""Threads that stand back, and tasks that are for ever."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
from pathlib import Path

import pytest

from sentinel import tasks
from sentinel.tasks import Tasks, patient_threads


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own elsewhere")
def test_patient_threads_stand_back() -> None:
    """They are nice, and keep the core for long only while nobody else wants it (Linux 6.12 and later tell)."""

    def look() -> tuple[int, str]:
        here = Path(f"/proc/self/task/{threading.get_native_id()}/sched")
        return os.getpriority(os.PRIO_PROCESS, 0), here.read_text() if here.exists() else ""

    usual, _ = look()
    with patient_threads(1, "patient") as threads:
        nice, schedule = threads.submit(look).result(10)
    assert nice == usual + 10
    version = tuple(map(int, platform.release().split(".")[:2]))
    slices = [float(line.split(":")[1]) for line in schedule.splitlines() if line.startswith("se.slice")]
    assert slices in ([], [100e6]) or version < (6, 12)
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def seconds(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def test_a_task_that_is_for_ever_is_started_again() -> None:
    """It comes back after pauses that grow, every failure is told, and it is well when it has run for a minute."""
    clock, failures = Clock(), list[str]()

    async def play() -> None:
        kept, runs, well = Tasks(failures.append, clock.seconds, clock.pause), 0, asyncio.Event()

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs == 9:
                clock.now += 100
            if runs < 10:
                raise ArithmeticError("odd")
            well.set()
            await asyncio.Event().wait()

        task = kept.keep(work, "work")
        await well.wait()
        assert failures == ["work"] * 9
        assert clock.pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5]
        assert kept.failing == ["work"]
        clock.now += tasks.WELL_AFTER_SECONDS + 1
        assert kept.failing == []
        await kept.cancel()
        assert task.cancelled()

    asyncio.run(play())


def test_a_task_that_ends_well_has_ended() -> None:
    """Nobody starts what has been told to stop."""
    clock = Clock()

    async def play() -> None:
        kept = Tasks(clock=clock.seconds, wait=clock.pause)
        await kept.keep(_nothing, "work")
        assert (kept.failing, clock.pauses) == ([], [])

    asyncio.run(play())


async def _nothing() -> None:
    return

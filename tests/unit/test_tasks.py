"""Threads that stand back."""

from __future__ import annotations

import os
import platform
import sys
import threading
from pathlib import Path

import pytest

from sentinel.tasks import patient_threads


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

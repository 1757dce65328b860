"""Cores, processes, and what /proc says about them."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from sentinel.server.open_files import allow_many_files

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STOP_SECONDS = 15.0
_ALLOWED = sorted(os.sched_getaffinity(0))


def cores() -> tuple[int, list[int]]:
    """The subject's core, and all others. Raises SystemExit where there is only one."""
    if len(_ALLOWED) < 2:
        raise SystemExit("The benchmark needs two cores: one for the subject, one for the load.")
    return _ALLOWED[0], _ALLOWED[1:]


def step_aside() -> None:
    """Leave the subject's core; so does everything that we start from now on without a core of its own."""
    os.sched_setaffinity(0, cores()[1])


def describe() -> dict[str, Any]:
    """The machine, for the reader of a result."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "busy_before": busy_share(1.0),
    }


def busy_share(seconds: float) -> float:
    """How much of the whole machine is in use, from 0 to 1, over the next seconds."""
    before = ticks()
    time.sleep(seconds)
    return use_since(before)["cpu"]


def ticks() -> dict[str, tuple[int, int]]:
    """Of the machine (`cpu`) and of each core (`cpu0`): ticks so far, and those of them that it was idle."""
    found = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *rest = line.split()
        if name.startswith("cpu"):
            fields = [int(field) for field in rest[:8]]
            found[name] = sum(fields), fields[3] + fields[4]
    return found


def use_since(before: dict[str, tuple[int, int]]) -> dict[str, float]:
    """How much of the machine and of each core was in use since then, from 0 to 1."""
    now = ticks()
    return {
        name: 1 - (now[name][1] - idle) / max(1, now[name][0] - all_of_them)
        for name, (all_of_them, idle) in before.items()
    }


def most_files(wanted: int) -> int:
    """Let this process and those that it starts have so many open files if they may; how many they may have."""
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    allow_many_files()
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def wait_until(condition: Callable[[], Any], seconds: float, what: str, pause_seconds: float = 0.002) -> None:
    """Look until the condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds} s")
        time.sleep(pause_seconds)


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Process:
    """A process of the benchmark, with its children. cpus: where it runs, None = like ourselves."""

    def __init__(
        self,
        command: list[str],
        *,
        cpus: list[int] | None = None,
        environment: dict[str, str] | None = None,
        folder: Path,
        name: str,
    ) -> None:
        pinned = ["taskset", "-c", ",".join(map(str, cpus)), *command] if cpus else command
        self.output = folder / f"{name}.out"
        self.errors = folder / f"{name}.err"
        with self.output.open("ab") as out, self.errors.open("ab") as err:
            self._process = subprocess.Popen(
                pinned, env={**os.environ, **(environment or {})}, cwd=folder, stdout=out, stderr=err
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """Raises RuntimeError with its last words if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._process.args!r} has ended: {self.errors.read_text()[-2000:]}")

    def wait_until(self, condition: Callable[[], Any], seconds: float) -> None:
        """Wait for a sign of it. Raises RuntimeError if it ends meanwhile, TimeoutError."""

        def came() -> Any:
            self.check()
            return condition()

        wait_until(came, seconds, f"the start of {self._process.args!r}")

    def stop(self) -> None:
        """SIGTERM, and wait; SIGKILL after a while."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def children(self) -> list[int]:
        """The processes that it has started and that still run."""
        tasks = Path(f"/proc/{self.pid}/task")
        return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]

    def cpu_seconds(self) -> float:
        """CPU time of it and its children so far."""
        return sum(cpu_seconds_of(pid) for pid in (self.pid, *self.children()))

    def threads(self) -> dict[int, tuple[str, float]]:
        """Name and CPU time of each of its threads so far."""
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            found[int(task.name)] = ((task / "comm").read_text().strip(), _cpu_seconds(task / "stat"))
        return found

    def memory_bytes(self) -> int:
        """Resident memory of it and its children now."""
        return sum(_memory_bytes(pid) for pid in (self.pid, *self.children()))

    def forget_peak(self) -> None:
        """What was resident at most counts from now on."""
        for pid in (self.pid, *self.children()):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """What was resident at most, of it and its children."""
        return sum(_peak_bytes(pid) for pid in (self.pid, *self.children()))

    def child_memory_bytes(self) -> list[int]:
        """Resident memory of each child."""
        return [_memory_bytes(pid) for pid in self.children()]


def cpu_seconds_of(pid: int) -> float:
    """CPU time of one process so far, of all its threads."""
    return _cpu_seconds(Path(f"/proc/{pid}/stat"))


def _cpu_seconds(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def _memory_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

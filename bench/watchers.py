"""Tells when the machine itself stands still: a watcher on each core that outranks whatever else runs there.

A virtual machine loses its cores for milliseconds, now and then, to whom its host prefers. A watcher is a process with
real-time priority (SCHED_FIFO) that sleeps a millisecond at a time. Nothing of ours keeps it from waking up, so where
it wakes up late nobody else ran either. That this is so here is checked (`check`), and not taken for granted.

Usage: python -m bench.watchers, on one core; it writes `ready`, then begin and end of each stall.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from bench.latency import Span, calm, latency, shadows, united
from bench.machine import Process, cpu_seconds_of, ticks, use_since
from bench.servers import ROOT

SLEEP_SECONDS = 0.001
"""So often it looks, for 2% of a core; half of it would take 3.3%."""
STALL_SECONDS = 0.001
"""So much too late it is a stall. Shorter ones count as ours."""
PRIORITY = 50
CHECK_SECONDS = 3.0
BUSY = 3
"""Processes of each kind on each core that must not make a watcher late."""
MOST_LATE = 0.01
"""So much more of the time may be lost beside busy processes than without them: the host's stalls come and go."""

_START_SECONDS = 10.0
_WRITTEN_SECONDS = 0.01

# One kind only calculates, the other one is in the kernel all the time, in sockets, as proxies are.
_BUSY = {
    "calculates": "while True: pass",
    "sends": """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    one = socket.create_connection(server.getsockname())
    other, _ = server.accept()
piece = b"x" * 16384
while True:
    one.sendall(piece)
    other.recv(len(piece), socket.MSG_WAITALL)
""",
}


@dataclass(frozen=True, slots=True)
class Watchers:
    """The watchers by their cores; none where the machine does not allow it, and then there are no stalls either."""

    processes: dict[int, Process]

    def stalls(self, begin: float) -> list[Span]:
        """What has ended since this moment, of all cores. Raises RuntimeError if a watcher has ended."""
        found = []
        for process in self.processes.values():
            process.check()
            # A line is written at once, but the last one may be in the making.
            whole, _, _ = process.output.read_text().rpartition("\n")
            spans = (Span(*map(float, line.split())) for line in whole.split("\n")[1:])
            found += [span for span in spans if span.end > begin]
        return found


@contextlib.contextmanager
def watching(cores: list[int], *, priority: int = PRIORITY) -> Iterator[Watchers]:
    """Watch these cores. priority: 0 is like everybody else, and of use for a check alone."""
    command = [sys.executable, "-m", "bench.watchers", str(priority)]
    environment = {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(prefix="sentinel-watch-") as name, ExitStack() as stack:
        processes = {}
        for core in cores:
            process = Process(command, cpus=[core], environment=environment, folder=Path(name), name=f"watch-{core}")
            processes[core] = stack.enter_context(process)
        yield Watchers(processes if all(_began(process) for process in processes.values()) else {})


def _began(process: Process) -> bool:
    """Whether it may have its priority."""
    process.wait_until(lambda: "\n" in process.output.read_text(), _START_SECONDS)
    return process.output.read_text().startswith("ready")


class Timed(Protocol):
    """What a load has seen."""

    @property
    def lives(self) -> list[Span]: ...


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True, slots=True)
class Watched(Generic[T]):
    """A load under watch. stalls: of all cores; use: of the busiest core that was watched, from 0 to 1."""

    load: T
    seconds: float
    stalls: list[Span]
    use: float


def watch(watchers: Watchers, load: Callable[[], T]) -> Watched[T]:
    """Run this load."""
    begin, before = time.monotonic(), ticks()
    seen = load()
    use = use_since(before)
    seconds = time.monotonic() - begin
    # Who slept through a stall with us may write of it a moment later.
    time.sleep(_WRITTEN_SECONDS)
    busiest = max((use[f"cpu{core}"] for core in watchers.processes), default=0.0)
    return Watched(seen, seconds, watchers.stalls(begin), busiest)


def told(rounds: Sequence[Watched[T]]) -> dict[str, Any]:
    """The latency of all that was timed, and of that alone which no stall has held up; and what stalls there were.

    set_apart: the share of what was timed that a stall has held up. stalled: the share of the time that stalls took.
    """
    lives = [life for each in rounds for life in each.load.lives]
    undisturbed = [life for each in rounds for life in calm(each.load.lives, shadows(each.stalls, each.use))]
    stalls = [stall for each in rounds for stall in united(each.stalls)]
    lengths = [stall.end - stall.begin for stall in stalls]
    return {
        "all": asdict(latency(lives)),
        "calm": asdict(latency(undisturbed)),
        "set_apart": 1 - len(undisturbed) / max(1, len(lives)),
        "stalled": sum(lengths) / sum(each.seconds for each in rounds),
        "longest_stall_ms": max(lengths, default=0.0) * 1000,
    }


@dataclass(frozen=True, slots=True)
class Check:
    """What the watchers of all cores do beside busy processes.

    late, late_busy: the share of the time that was lost with nothing else to do, and with more to do than there is
    time. late_ordinary: the same of watchers without priority, which shows what the busy processes would do to them.
    cpu: what a watcher takes of its core. allowed: whether there may be watchers; where not, all else is 0.
    """

    allowed: bool
    late: float = 0.0
    late_busy: float = 0.0
    late_ordinary: float = 0.0
    cpu: float = 0.0

    @property
    def independent(self) -> bool:
        """Whether what they tell is the machine's doing, and not that of our processes."""
        return (
            self.allowed and self.late_busy <= self.late + MOST_LATE and self.late_ordinary > self.late_busy + MOST_LATE
        )


def check(cores: list[int], seconds: float = CHECK_SECONDS) -> Check:
    """Watch with nothing else to do, and beside processes that want all of each core."""
    with watching(cores) as watchers:
        if not watchers.processes:
            return Check(allowed=False)
        cpu = _cpu_seconds(watchers)
        late = _lost(watchers, seconds)
        cpu = _cpu_seconds(watchers) - cpu
        with _busy(cores), watching(cores, priority=0) as ordinary:
            late_busy = _lost(watchers, seconds)
            late_ordinary = _lost(ordinary, seconds)
    return Check(True, late, late_busy, late_ordinary, cpu / seconds / len(cores))


def _cpu_seconds(watchers: Watchers) -> float:
    return sum(cpu_seconds_of(process.pid) for process in watchers.processes.values())


def _lost(watchers: Watchers, seconds: float) -> float:
    """The share of the next seconds that their cores lost, on average."""
    begin = time.monotonic()
    time.sleep(seconds)
    lost = sum(span.end - max(span.begin, begin) for span in watchers.stalls(begin))
    return lost / seconds / len(watchers.processes)


@contextlib.contextmanager
def _busy(cores: list[int]) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="sentinel-busy-") as name, ExitStack() as stack:
        for core in cores:
            for kind, code in _BUSY.items():
                for number in range(BUSY):
                    process = Process(
                        [sys.executable, "-c", code], cpus=[core], folder=Path(name), name=f"{kind}-{core}-{number}"
                    )
                    stack.enter_context(process)
        yield


def main(priority: int) -> None:
    """Watch the core that we are on. A stall begins when we last ran, so it may be too long by a sleep."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO if priority else os.SCHED_OTHER, os.sched_param(priority))
    except OSError as error:
        print(f"refused: {error}", flush=True)
        signal.pause()
    gc.disable()
    print("ready", flush=True)
    begin = time.monotonic()
    while True:
        time.sleep(SLEEP_SECONDS)
        end = time.monotonic()
        if end - begin > SLEEP_SECONDS + STALL_SECONDS:
            print(f"{begin:.6f} {end:.6f}", flush=True)
            end = time.monotonic()
        begin = end


if __name__ == "__main__":
    main(int(sys.argv[1]))

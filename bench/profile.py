"""Where the microseconds of one request, or of one relayed chunk, go: `python -m bench.profile [--streams]`.

Sentinel runs under the usual load while py-spy samples whoever holds the GIL. Shares of samples become microseconds
with the CPU time of the event loop's thread; the other threads, and Valkey, are measured by the kernel. Frames of C
code (uvloop, msgspec, system calls) count for the Python function that called them; the collector of garbage, for
whoever it interrupted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import redis

from bench import machine, servers, stream_client, wrk
from bench.rig import Rig, rig
from bench.servers import Subject
from sentinel.server.open_files import allow_many_files

SAMPLES_PER_SECOND = 1000
STREAMS, CHUNKS_PER_SECOND = 256, 20.0
_LAUNCH = ("runpy", "sentinel/__main__.py", "sentinel/cli.py", "asyncio/runners.py", "uvicorn/_compat.py")


@dataclass(slots=True)
class Node:
    """A function, called from its parent in the tree. samples: with all that it called."""

    samples: int = 0
    below: dict[str, Node] = field(default_factory=dict)

    def add(self, frames: list[str], samples: int) -> None:
        """Count these samples along a stack, outermost function first."""
        node = self
        node.samples += samples
        for frame in frames:
            node = node.below.setdefault(frame, Node())
            node.samples += samples

    def lines(self, unit: float, least_us: float, depth: int = 0) -> Iterator[str]:
        """The tree as text: microseconds in all, of its own, name. unit: microseconds of one sample."""
        for name, node in sorted(self.below.items(), key=lambda item: -item[1].samples):
            own = node.samples - sum(child.samples for child in node.below.values())
            if node.samples * unit >= least_us:
                yield f"{node.samples * unit:7.1f} {own * unit:6.1f}  {'  ' * depth}{name}"
                yield from node.lines(unit, least_us, depth + 1)


def read(stacks: str) -> Node:
    """The event loop's thread in py-spy's raw format: `outermost (file:line);...;innermost (file:line) samples`."""
    tree = Node()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        if "runpy" in frames[0]:
            names = [frame.rpartition(":")[0] + ")" for frame in frames if not any(file in frame for file in _LAUNCH)]
            tree.add(names, int(samples))
    return tree


def main() -> None:
    options = _options()
    machine.step_aside()
    allow_many_files()
    with ExitStack() as stack:
        stand = stack.enter_context(rig())
        if options.streams:
            provider = stack.enter_context(servers.stream_provider(stand.folder, CHUNKS_PER_SECOND))
            sentinel = stack.enter_context(stand.sentinel(provider=provider))
            stream_client.run(sentinel.port, 32, 1.0)
        else:
            sentinel = stack.enter_context(stand.sentinel())
            wrk.run(sentinel.port, 64, 3.0, stand.folder)
        _profile(stand, sentinel, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profile")
    parser.add_argument("--streams", action="store_true", help=f"{STREAMS} streams instead of whole answers")
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--least", type=float, default=1.0, metavar="US", help="leave out what is below")
    return parser.parse_args()


def _profile(stand: Rig, sentinel: Subject, options: argparse.Namespace) -> None:
    store = redis.Redis.from_url(stand.store.url)
    before: dict[int, tuple[str, float]] = {}

    def begin() -> None:
        store.config_resetstat()
        before.update(sentinel.process.threads())

    # Once without py-spy, for true costs; once with it, for the shares.
    units = _load(stand, sentinel, options, begin)
    costs = {
        f"{name} ({thread})": (cpu - before.get(thread, (name, 0.0))[1]) / units * 1e6
        for thread, (name, cpu) in sentinel.process.threads().items()
    }
    commands = store.info("commandstats")
    stacks = stand.folder / "stacks"
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "-r", str(SAMPLES_PER_SECOND)]
    spy += ["-d", str(options.seconds), "-f", "raw", "-o", str(stacks), "-p", str(sentinel.process.pid)]
    with subprocess.Popen(spy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recording:
        _load(stand, sentinel, options, lambda: None)
        recording.wait(30)
    loop_us = next(cost for name, cost in costs.items() if f"({sentinel.process.pid})" in name)
    tree = read(stacks.read_text())
    print(f"CPU of one {'chunk' if options.streams else 'request'} by thread, microseconds; {units:,} of them")
    for name, cost in sorted(costs.items(), key=lambda item: -item[1]):
        print(f"{cost:7.1f}  {name}")
    print("in Valkey, by command, microseconds and calls")
    for name, stats in sorted(commands.items(), key=lambda item: -item[1]["usec"])[:8]:
        print(f"{stats['usec'] / units:7.1f} {stats['calls'] / units:6.2f}  {name.removeprefix('cmdstat_')}")
    print("in the event loop's thread, microseconds: with what it called, of its own")
    print("\n".join(tree.lines(loop_us / max(1, tree.samples), options.least)))


def _load(stand: Rig, sentinel: Subject, options: argparse.Namespace, begin: Callable[[], None]) -> int:
    """Requests answered, or chunks relayed, between `begin` and the end."""
    if options.streams:
        waiting = [begin]

        def look() -> None:
            if waiting:
                waiting.pop()()

        return stream_client.run(sentinel.port, STREAMS, options.seconds, look).chunks
    begin()
    return wrk.run(sentinel.port, 64, options.seconds, stand.folder).requests


if __name__ == "__main__":
    main()

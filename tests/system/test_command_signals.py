"""What signals do to the command: some end it in good order, at whatever moment; all others leave it alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sentinel.dev.ports import free_port
from tests.support.processes import children_of, is_running, told_of
from tests.support.stack import SentinelProcess, Stack
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.system.test_command_end import job
from tests.system.test_command_serve import messages, open_stream, refuses, workers_of

COMMAND = str(Path(sys.executable).parent / "sentinel")
HARMLESS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
ENDING = [signal.SIGTERM, signal.SIGQUIT]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_that_end_nothing(stack: Stack, workers: str) -> None:
    """SIGHUP, SIGUSR1 and SIGUSR2 to all processes of a job: no worker is replaced, the stream goes on to its end."""
    _, token = stack.user(f"harmless-{workers}@corp.test")
    with job(stack, SENTINEL_WORKERS=workers) as running:
        before = children_of(running.process.pid)
        with open_stream(running.sentinel, token, "[[tokens=15 delay=0.05]]") as answer:
            for number in HARMLESS:
                os.killpg(running.process.pid, number)
                running.process.send_signal(number)
            told = "nothing to reload: settings are read at the start"
            wait_until(
                lambda: len({line["pid"] for line in running.sentinel.log() if line["event"] == told}) == int(workers),
                "a word of each worker",
            )
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert children_of(running.process.pid) == before
        assert len(workers_of(running.sentinel)) == int(workers)
        running.process.terminate()
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert running.stderr == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigquit_ends_like_sigterm(stack: Stack, workers: str) -> None:
    """The stream finishes, its usage is delivered, the status is 0, and no core is dumped."""
    email = f"quit-{workers}@corp.test"
    _, token = stack.user(email)
    with job(stack, SENTINEL_WORKERS=workers) as running:
        with open_stream(running.sentinel, token, "[[tokens=20 delay=0.05]]") as answer:
            os.killpg(running.process.pid, signal.SIGQUIT)
            wait_until(lambda: refuses(running.sentinel), "a closed port")
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert messages(running.sentinel)[-1] == "sentinel has stopped"
    assert stack.used(email)["ai_output_tokens"] == 20


def test_signals_do_not_change_the_number_of_workers(stack: Stack) -> None:
    """A job in the background that gets SIGTTIN or SIGTTOU from its terminal keeps its workers: limits count on it."""
    with job(stack, SENTINEL_WORKERS="2") as running:
        before = children_of(running.process.pid)
        for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP):
            running.process.send_signal(number)
        wait_until(lambda: any("nothing to reload" in event for event in messages(running.sentinel)), "SIGHUP")
        assert children_of(running.process.pid) == before


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    masks = [line.split()[1] for line in told_of(pid, "status").splitlines() if line.startswith("SigCgt:")]
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def maps(pid: int) -> str:
    """What of its files a process has mapped."""
    return told_of(pid, "maps")


MOMENTS: dict[str, Callable[[SentinelProcess, int], bool]] = {
    "its first line": lambda sentinel, pid: True,
    "settings are being loaded": lambda sentinel, pid: "pydantic_core" in maps(pid),
    "the server is being loaded": lambda sentinel, pid: "uvloop" in maps(pid),
    "the provider's client is being loaded": lambda sentinel, pid: "pyreqwest" in maps(pid),
    "it listens": lambda sentinel, pid: not refuses(sentinel),
}


@pytest.mark.parametrize(
    ("moment", "number", "workers"),
    [
        *((moment, signal.SIGTERM, "1") for moment in MOMENTS),
        *((moment, signal.SIGTERM, "2") for moment in MOMENTS if moment != "settings are being loaded"),
        ("its first line", signal.SIGQUIT, "1"),
        ("it listens", signal.SIGQUIT, "2"),
    ],
)
def test_an_end_during_the_start_is_a_good_one(stack: Stack, moment: str, number: signal.Signals, workers: str) -> None:
    """From the first line on that runs of it, long before anything is loaded, Sentinel ends with status 0, silently."""
    with job(stack, ready=False, SENTINEL_WORKERS=workers) as running:
        pid = running.process.pid
        wait_until(lambda: catches(pid, signal.SIGTERM), "its first line")
        if moment == "its first line":
            assert "pydantic_core" not in maps(pid)
        seen = MOMENTS[moment]
        wait_until(lambda: any(seen(running.sentinel, process) for process in (pid, *children_of(pid))), moment)
        running.process.send_signal(number)
        assert running.process.wait(20) == 0
        assert running.stderr == ""


def test_harmless_signals_during_the_start(stack: Stack) -> None:
    """They end nothing from the first line on, sent again and again until the workers serve."""
    with job(stack, ready=False, SENTINEL_WORKERS="2") as running:
        wait_until(lambda: catches(running.process.pid, signal.SIGTERM), "its first line")

        def serves() -> bool:
            for number in HARMLESS:
                os.killpg(running.process.pid, number)
            return len(workers_of(running.sentinel)) == 2

        wait_until(serves, "two workers")
        running.process.terminate()
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert running.stderr == ""


def started_by(pid: int) -> list[int]:
    """The children of all threads of a process: the store belongs to one of its own."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


@contextlib.contextmanager
def dev(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`sentinel dev` in an empty folder; it ends with the test at the latest."""
    running = subprocess.Popen(
        [COMMAND, "dev"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "SENTINEL_PORT": str(free_port())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.terminate()
        running.communicate(timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize("number", ENDING)
def test_dev_ends_well(tmp_path: Path, number: signal.Signals) -> None:
    """After signals that end nothing, it ends with status 0, and its store with it."""
    with dev(tmp_path) as running:
        assert running.stdout is not None
        assert any("Sentinel is ready" in line for line in running.stdout)
        children = started_by(running.pid)
        for harmless in HARMLESS:
            running.send_signal(harmless)
        log = tmp_path / ".sentinel" / "sentinel.log"
        # Its simulated providers are named in a file.
        wait_until(lambda: "providers are read anew" in log.read_text(), "a word about SIGHUP")
        assert running.poll() is None
        running.send_signal(number)
        _, errors = running.communicate(timeout=PATIENCE_SECONDS)
        assert (running.returncode, errors) == (0, "")
        wait_until(lambda: not any(is_running(child) for child in children), "the end of the store")


@pytest.mark.parametrize("number", ENDING)
def test_dev_ends_well_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    """At its first line, and while its store starts."""
    for what in (lambda pid: catches(pid, signal.SIGTERM), started_by):
        with dev(tmp_path) as running:
            wait_until(lambda: what(running.pid), "a sign of life")  # noqa: B023 (called here)
            running.send_signal(number)
            _, errors = running.communicate(timeout=PATIENCE_SECONDS)
            assert (running.returncode, errors) == (0, "")


def test_a_command_that_is_no_service_dies_by_sigterm(stack: Stack) -> None:
    """Who ends `sentinel replay` must not be told that all is done."""
    sentinel: SentinelProcess = stack.sentinel(start=False)
    stack.store.pause()
    try:
        running = subprocess.Popen([COMMAND, "replay"], env={"PATH": os.environ["PATH"], **sentinel.environment})
        wait_until(lambda: "pyreqwest" in maps(running.pid), "its work")
        running.terminate()
        assert running.wait(10) != 0
    finally:
        stack.store.resume()

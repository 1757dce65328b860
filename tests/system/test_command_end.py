"""How `sentinel serve` ends by Ctrl-C: what it says, what it waits for, and that a second one waits for nothing.

About: `server/process.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import children_of, is_running, told_of
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.system.test_command_serve import open_stream, refuses, workers_of

COMMAND = str(Path(sys.executable).parent / "sentinel")
WAITING = "Waiting up to 30 s for 1 open request; Ctrl-C again ends at once.\n"
CUT = "Ended at once: 1 open request cut off.\n"


class Job:
    """A `sentinel serve` that is the foreground job of a terminal: all its processes are one group."""

    def __init__(self, sentinel: SentinelProcess, process: subprocess.Popen[bytes]) -> None:
        self.sentinel = sentinel
        self.process = process

    def press_ctrl_c(self) -> None:
        """Send SIGINT to all of the job."""
        os.killpg(self.process.pid, signal.SIGINT)

    @property
    def stderr(self) -> str:
        return (self.sentinel.folder / "stderr").read_text()

    def says(self, text: str) -> None:
        """Wait until it has said this."""
        wait_until(lambda: text in self.stderr, f"{text!r}, not {self.stderr!r}")


@contextlib.contextmanager
def job(stack: Stack, *, ready: bool = True, **settings: str) -> Iterator[Job]:
    sentinel = stack.sentinel(settings, start=False, USAGE_FLUSH_SECONDS="60")
    with (sentinel.folder / "stdout").open("ab") as out, (sentinel.folder / "stderr").open("ab") as err:
        process = subprocess.Popen(
            [COMMAND, "serve"],
            env={"PATH": os.environ["PATH"], **sentinel.environment},
            cwd=sentinel.folder,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    sentinel.process = process
    try:
        if ready:
            wait_until(lambda: len(workers_of(sentinel)) == int(settings.get("SENTINEL_WORKERS", "1")), "the start")
            wait_until(lambda: not refuses(sentinel), "an open port")
        yield Job(sentinel, process)
        assert "Traceback" not in (sentinel.folder / "stdout").read_text() + (sentinel.folder / "stderr").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_ctrl_c_ends_at_once_and_what_was_settled_is_billed(workers: str) -> None:
    """The first says what it waits for while the stream goes on; the second leaves no process and no debt."""
    with Stack() as stack:
        email = "twice@corp.test"
        _, token = stack.user(email)
        with job(stack, SENTINEL_WORKERS=workers) as running:
            assert post(running.sentinel, token, chat("[[tokens=3]]")).status == 200
            children = children_of(running.process.pid)
            with open_stream(running.sentinel, token, "[[tokens=900 delay=0.05]]") as answer:
                running.press_ctrl_c()
                running.says(WAITING)
                assert answer.readline() == b"\n"
                assert answer.readline().startswith(b"data: ")
                running.press_ctrl_c()
                assert running.process.wait(5) == 130
            assert running.stderr == WAITING + CUT
            wait_until(lambda: not any(is_running(child) for child in children), "the end of every child")
        stack.sentinel()
        assert stack.booked(1, email)["ai_output_tokens"] >= 3


@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_ctrl_c_lets_streams_finish(stack: Stack, workers: str) -> None:
    """Nobody new is let in, the stream ends as ever, its usage is delivered, and the status is 0."""
    email = f"once-{workers}@corp.test"
    _, token = stack.user(email)
    with job(stack, SENTINEL_WORKERS=workers) as running:
        with open_stream(running.sentinel, token, "[[tokens=20 delay=0.05]]") as answer:
            running.press_ctrl_c()
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert running.stderr == WAITING
    assert stack.used(email)["ai_output_tokens"] == 20


@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_nothing_open_there_is_nothing_to_say(stack: Stack, workers: str) -> None:
    """An idle one ends without a word, with status 0."""
    with job(stack, SENTINEL_WORKERS=workers) as running:
        running.press_ctrl_c()
        assert running.process.wait(5) == 0
        assert running.stderr == ""


def test_a_supervisor_that_is_interrupted_alone_takes_its_workers_along(stack: Stack) -> None:
    """`kill -INT` of the supervisor, twice: the workers end, too, at once."""
    _, token = stack.user("alone@corp.test")
    with job(stack, SENTINEL_WORKERS="2") as running:
        children = children_of(running.process.pid)
        with open_stream(running.sentinel, token, "[[tokens=900 delay=0.05]]"):
            os.kill(running.process.pid, signal.SIGINT)
            wait_until(lambda: refuses(running.sentinel), "a closed port")
            os.kill(running.process.pid, signal.SIGINT)
            assert running.process.wait(5) == 130
        wait_until(lambda: not any(is_running(child) for child in children), "the end of every child")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_end_by_a_program_is_told_in_the_log_alone(stack: Stack, workers: str) -> None:
    """SIGTERM, twice as some send it: no word on stderr, a line in the log, and the stream is not cut."""
    _, token = stack.user(f"term-{workers}@corp.test")
    with job(stack, SENTINEL_WORKERS=workers) as running:
        with open_stream(running.sentinel, token, "[[tokens=20 delay=0.05]]") as answer:
            running.process.terminate()
            wait_until(lambda: refuses(running.sentinel), "a closed port")
            running.process.terminate()
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert running.process.wait(PATIENCE_SECONDS) == 0
        assert running.stderr == ""
        (line,) = [line for line in running.sentinel.log() if line["event"] == "sentinel waits for open requests"]
        assert (line["requests"], line["seconds"]) == (1, 30)


def test_usage_that_zion_does_not_take_is_waited_for_aloud() -> None:
    """While the last usage is on its way Ctrl-C says so, and once more leaves it in Redis, to be delivered later."""
    with Stack() as stack:
        _, token = stack.user()
        with job(stack) as running:
            assert post(running.sentinel, token, chat("[[tokens=3]]")).status == 200
            stack.simulators.zion_server.stop()
            running.press_ctrl_c()
            running.says("Telling Zion of the last usage, up to 10 s; Ctrl-C again ends at once.\n")
            running.press_ctrl_c()
            assert running.process.wait(3) == 130
        stack.simulators.zion_server.start()
        stack.sentinel()
        assert stack.booked(1)["ai_output_tokens"] == 3


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_during_the_start_leaves_no_traceback(stack: Stack, workers: str) -> None:
    """Pressed at any moment, also while workers are still importing."""
    with job(stack, ready=False, SENTINEL_WORKERS=workers) as running:
        pid = running.process.pid
        wait_until(lambda: children_of(pid) if workers == "2" else "uvloop" in _maps(pid), "signs of life")
        running.press_ctrl_c()
        assert running.process.wait(PATIENCE_SECONDS) in (0, 130)


def _maps(pid: int) -> str:
    """What of its files a process has mapped."""
    return told_of(pid, "maps")

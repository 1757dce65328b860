"""`sentinel serve` in surroundings that are not what one expects: no stdout, no locale, no home, odd time zones."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.client import events
from tests.support.sandbox import Sandbox
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import wait_until
from tests.system.test_command_serve import refuses

COMMAND = str(Path(sys.executable).parent / "sentinel")

SURROUNDINGS: dict[str, dict[str, str]] = {
    "no home": {"HOME": "/no/such/home", "TZ": "Asia/Kathmandu"},
    "a locale of ASCII": {"LANG": "C", "LC_ALL": "C", "TZ": ":/no/such/zone"},
    "Python obeys it": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TMPDIR": "/no/such/folder"},
    "a locale that is not there": {"LANG": "xx_YY.ISO-8859-1", "TZ": "XXX-23:59:59YYY-24:59:59"},
}


def served(stack: Stack, sentinel: SentinelProcess, email: str) -> None:
    """A prompt in many alphabets is counted as ever, answered, logged in UTC, and booked."""
    _, token = stack.user(email)
    text = "[[tokens=3]] naïve 数える щ 🙂 " * 400
    counted = post(sentinel, token, chat(text)).json["usage"]["prompt_tokens"]
    stream = post(sentinel, token, chat("[[tokens=3]] 数える", stream=True))
    assert events(stream.body)[-1] == "[DONE]"
    assert stack.booked(2, email)["ai_output_tokens"] == 6
    assert stack.used(email)["ai_input_tokens"] > counted
    (first, *_) = sentinel.ended(2)
    assert first["timestamp"].endswith("Z")
    logged = datetime.fromisoformat(first["timestamp"]).timestamp()
    assert abs((sentinel.folder / "stdout").stat().st_mtime - logged) < 60


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_odd_surroundings_change_nothing(stack: Stack, name: str) -> None:
    """What is in the environment beside our settings decides nothing."""
    sentinel = stack.sentinel(SURROUNDINGS[name])
    served(stack, sentinel, f"{name.replace(' ', '-').replace(',', '')}@corp.test")
    assert (sentinel.folder / "stderr").read_text() == ""
    assert sentinel.stop() == 0


def test_a_strict_umask_changes_nothing(stack: Stack) -> None:
    """Files for nobody but their owner."""
    sentinel = stack.sentinel(start=False, SENTINEL_WORKERS="2")
    sentinel.command = Sandbox(umask=0o077).command(COMMAND, "serve")
    served(stack, sentinel.start(), "umask@corp.test")
    assert sentinel.stop() == 0


@pytest.mark.parametrize(("closed", "workers"), [([0], "1"), ([1], "1"), ([0, 1, 2], "1"), ([0, 1, 2], "2")])
def test_closed_standard_files_are_nobody_elses(stack: Stack, closed: list[int], workers: str) -> None:
    """What is opened next must not have the number of stdout, and get log lines: all requests are served and booked."""
    sentinel = stack.sentinel(start=False, SENTINEL_WORKERS=workers)
    sentinel.command = Sandbox(closed=closed).command(COMMAND, "serve")
    sentinel.start()
    for number in closed:
        assert Path(f"/proc/{sentinel.pid}/fd/{number}").readlink() == Path("/dev/null")
    email = f"closed-{''.join(map(str, closed))}-{workers}@corp.test"
    _, token = stack.user(email)
    for _ in range(5):
        assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
    assert stack.booked(5, email)["ai_output_tokens"] == 5
    assert sentinel.stop() == 0


@contextlib.contextmanager
def unread(sentinel: SentinelProcess) -> Iterator[None]:
    """The process with a stdout and stderr that nobody reads, and that are full already."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    environment = {"PATH": os.environ["PATH"], **sentinel.environment}
    sentinel.process = subprocess.Popen(
        [COMMAND, "serve"], env=environment, cwd=sentinel.folder, stdout=write, stderr=write
    )
    os.close(write)
    try:
        yield
    finally:
        os.close(read)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_pipe_holds_up_nothing(stack: Stack, workers: str) -> None:
    """Log lines that nobody reads are dropped in the end; requests, the start and the end wait for none of them."""
    sentinel = stack.sentinel(start=False, SENTINEL_WORKERS=workers)
    with unread(sentinel):
        wait_until(lambda: not refuses(sentinel) and send(sentinel, "GET", "/health/ready").status == 200)
        _, token = stack.user(f"unread-{workers}@corp.test")
        for _ in range(5):
            assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
        assert stack.booked(5, f"unread-{workers}@corp.test")["ai_output_tokens"] == 5
        assert sentinel.stop(20) == 0


def test_a_full_disk_takes_log_lines_alone(stack: Stack) -> None:
    """Lines that cannot be written are counted; requests and the end do not mind."""
    sentinel = stack.sentinel(start=False)
    environment = {"PATH": os.environ["PATH"], **sentinel.environment}
    with Path("/dev/full").open("wb") as full:
        sentinel.process = subprocess.Popen(
            [COMMAND, "serve"], env=environment, cwd=sentinel.folder, stdout=full, stderr=full
        )
    wait_until(lambda: not refuses(sentinel) and send(sentinel, "GET", "/health/ready").status == 200)
    _, token = stack.user("full@corp.test")
    for _ in range(5):
        assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
    assert stack.booked(5, "full@corp.test")["ai_output_tokens"] == 5
    wait_until(lambda: sentinel.metric("sentinel_log_lines_dropped_total") >= 5, "the count of lost lines")
    assert sentinel.stop(20) == 0

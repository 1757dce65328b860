"""Whether a process is gone, by its name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sentinel.usage.partition_ownership import is_gone, place

HERE = place()
ME = f"{HERE}|{os.getpid()}|aaaaaa"


def test_a_process_that_runs_is_not_gone() -> None:
    """Its parent runs as long as this test does."""
    assert not is_gone(f"{HERE}|{os.getppid()}|bbbbbb", ME)


def test_a_killed_process_is_gone_even_before_anybody_looked() -> None:
    """A zombie delivers nothing."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{HERE}|{process.pid}|bbbbbb"
    assert not is_gone(name, ME)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(name, ME)
    process.communicate()
    assert is_gone(name, ME)


def test_who_had_our_process_id_is_gone() -> None:
    """In a container every life has the same one."""
    assert is_gone(f"{HERE}|{os.getpid()}|bbbbbb", ME)
    assert not is_gone(ME, ME)


@pytest.mark.parametrize("where", ["other|boot|space", HERE.replace("|", "||", 1), ""])
def test_elsewhere_nobody_can_see(where: str) -> None:
    """Of a process on another machine only its silence tells."""
    assert not is_gone(f"{where}|99999999|bbbbbb", ME)

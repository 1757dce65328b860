"""What a folder of `sentinel dev` keeps, and for whom."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sentinel.dev.folder import DataFolder, InUse


def test_a_folder_has_one_process_at_a_time(tmp_path: Path) -> None:
    """The next one is told who has it, and where that serves."""
    first = DataFolder(tmp_path / "data")
    first.claim()
    with pytest.raises(InUse) as early:
        DataFolder(tmp_path / "data").claim()
    assert (early.value.pid, early.value.url) == (os.getpid(), "")
    first.announce("http://127.0.0.1:8080")
    with pytest.raises(InUse) as later:
        DataFolder(tmp_path / "data").claim()
    assert later.value.url == "http://127.0.0.1:8080"


def test_the_token_stays_and_is_nobody_elses(tmp_path: Path) -> None:
    """The same in every run of a folder, another in each folder, readable by its owner alone."""
    token = DataFolder(tmp_path).token()
    assert DataFolder(tmp_path).token() == token
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0
    (tmp_path / "other").mkdir()
    assert DataFolder(tmp_path / "other").token() != token


def test_the_log_of_the_run_before_is_kept_and_no_other(tmp_path: Path) -> None:
    """Two files at most, whatever the number of runs."""
    for text in (b"one", b"two", b"three"):
        log = DataFolder(tmp_path).open_log()
        os.write(log, text)
        os.close(log)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "sentinel.log": b"three",
        "sentinel.log.1": b"two",
    }

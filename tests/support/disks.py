"""What a file can meet on its disk: no room, and another process that has locked it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEGABYTES = 4


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if os.geteuid():
        pytest.skip("a small file system can be mounted by root alone")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Leave no byte on the disk of this file."""
    with file.open("wb", buffering=0) as rest:
        for size in (65_536, 4_096, 1):
            with contextlib.suppress(OSError):
                while True:
                    rest.write(b"x" * size)


_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another process writes into this database of SQLite, and does not come to an end.

    Nobody else can write; nor read, where its journal is not a write-ahead log.
    """
    command = [sys.executable, "-c", _LOCK, str(database)]
    # It ends when it has nothing to read any more.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        yield

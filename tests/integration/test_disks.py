"""A full disk and a locked database are what SQLite says they are, and end with what made them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import fill, locked, small_disk


@contextlib.contextmanager
def database(path: Path, journal: str = "delete") -> Iterator[sqlite3.Connection]:
    """One with a row in it, which waits for nobody."""
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE thing (id integer)")
        connection.execute("INSERT INTO thing VALUES (1)")
        yield connection


def ids(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT id FROM thing")]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_full_disk_takes_no_row(tmp_path: Path, journal: str) -> None:
    """What was there can be read, and with room again all goes on."""
    with small_disk(tmp_path / "disk") as disk, database(disk / "file", journal) as connection:
        fill(disk / "rest")
        with pytest.raises(sqlite3.OperationalError, match=r"disk is full|disk I/O error"):
            connection.execute("INSERT INTO thing SELECT 2 FROM (VALUES (1)), json_each(?)", [str([0] * 9_999)])
        assert ids(connection) == [1]
        (disk / "rest").unlink()
        connection.execute("INSERT INTO thing VALUES (3)")
        assert ids(connection) == [1, 3]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_locked_database_takes_no_row(tmp_path: Path, journal: str) -> None:
    """It can be read where its journal is a write-ahead log; afterwards all goes on."""
    with database(tmp_path / "file", journal) as connection:
        with locked(tmp_path / "file"):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                connection.execute("INSERT INTO thing VALUES (2)")
            if journal == "wal":
                assert ids(connection) == [1]
            else:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    ids(connection)
        connection.execute("INSERT INTO thing VALUES (3)")
        assert ids(connection) == [1, 3]

"""A database, copied as it is at one moment while others use it: into a file, or into another database."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select, text

from sentinel.governance.service.database import Database
from sentinel.governance.service.schema import metadata, notices, plans, proxies

_AT_ONCE = 1_000
_WAIT_SECONDS = 30.0


class CopyRefused(Exception):
    """A copy that would not be right, or would be in the way of something. Its text is for people."""


def back_up(source: Path, target: Path) -> int:
    """Copy a SQLite database into a new file, which appears when it is whole; returns its size in bytes.

    Writers go on meanwhile, and are not in the copy. Raises CopyRefused, OSError, sqlite3.Error.
    """
    if not source.is_file():
        raise CopyRefused(f"there is no database {source}")
    if os.path.lexists(target):
        raise CopyRefused(f"there is a file {target} already; it is left as it is")
    # For its owner alone: it has the digests of keys, and everybody's e-mail address.
    opened, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(opened)
    partial = Path(name)
    try:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=_WAIT_SECONDS)) as live,
            contextlib.closing(sqlite3.connect(partial)) as copied,
        ):
            live.backup(copied)
            # One file, wherever it is put.
            copied.execute("PRAGMA journal_mode = DELETE")
        # Not `rename`, which would take the place of what came there meanwhile.
        os.link(partial, target)
        return target.stat().st_size
    finally:
        partial.unlink(missing_ok=True)


def copy_all(source: Database, target: Database) -> dict[str, int]:
    """Copy all rows into an empty database of the same schema, in one transaction; how many there are of each table.

    Raises CopyRefused where it is not empty, DatabaseUnavailable.
    """
    with source.snapshot() as origin, target.writing() as destination:
        if not target.is_sqlite:
            names = ", ".join(metadata.tables)
            destination.execute(text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"))
            destination.execute(text("SET LOCAL statement_timeout = 0"))
        if found := [name for name, count in _counts(destination).items() if count]:
            raise CopyRefused(f"the database to copy into is not empty: it has {', '.join(found)}")
        for table in metadata.sorted_tables:
            rows = origin.execute(select(table).execution_options(yield_per=_AT_ONCE))
            for portion in rows.mappings().partitions():
                destination.execute(insert(table), [dict(row) for row in portion])
        _continue_numbers(target, destination)
        copied, expected = _counts(destination), _counts(origin)
        if copied != expected:
            raise CopyRefused(f"not all was copied: {copied} of {expected}")
        return copied


def _counts(connection: Connection) -> dict[str, int]:
    return {
        name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for name, table in metadata.tables.items()
    }


def _continue_numbers(target: Database, connection: Connection) -> None:
    """Let new rows have numbers that none had: a notice's must be above what any proxy has been told."""
    last_plan = _highest(connection, plans.c.id)
    last_notice = max(_highest(connection, notices.c.id), _highest(connection, proxies.c.told))
    if target.is_sqlite:
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = 'notices'"))
        statement = text("INSERT INTO sqlite_sequence (name, seq) VALUES ('notices', :last)")
        connection.execute(statement, {"last": last_notice})
        return
    for name, last in (("plans", last_plan), ("notices", last_notice)):
        statement = text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :next, false)")
        connection.execute(statement, {"name": name, "next": last + 1})


def _highest(connection: Connection, column: Any) -> int:
    return int(connection.execute(select(func.coalesce(func.max(column), 0))).scalar_one())

"""The database: SQLite in a file, or PostgreSQL. Connections, transactions, and the schema brought up to date.

Several processes may share one database. On SQLite a writing transaction takes the one lock there is at its beginning
(`BEGIN IMMEDIATE`), so that it never fails for having read something that another has changed; on PostgreSQL whoever
books for users locks their rows first, in the order of their ids.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Engine,
    Table,
    Text,
    bindparam,
    cast,
    create_engine,
    event,
    func,
    select,
    text,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DisconnectionError, OperationalError, SQLAlchemyError

from sentinel.clock import monotonic
from sentinel.config import ConfigError
from sentinel.governance_settings import GovernanceSettings

BUSY_SECONDS = 4.0
"""So long a writer waits for another: for the lock of SQLite, or with a statement of PostgreSQL."""
MIGRATION_SECONDS = 60.0
"""The same for a change of the schema."""
STATEMENT_SECONDS = 15
_CONNECT_SECONDS = 2
"""Of PostgreSQL, whose library takes no less; a look-up must end within 2.5 s."""
_SILENT_SECONDS = 5
"""After so long without a sign of its machine a connection to PostgreSQL is given up."""
MIGRATION_LOCK = 0x53454E54
"""Of PostgreSQL's advisory locks: one process at a time changes the schema."""
_POOL = 20
_POOL_SECONDS = 2.0
"""So long a transaction waits for one of the connections."""
_WAIT_MS = "wait_ms"
"""Of transactions that write: how long they wait for another one."""


class DatabaseUnavailable(Exception):
    """The database cannot be reached, is locked, full, or broken. Its text is for operators, and holds no secret."""


class Database:
    """One database. Its transactions are used by one thread each."""

    def __init__(self, settings: GovernanceSettings) -> None:
        self.file = settings.sqlite_file
        self.engine = _engine(settings.governance_database_url, self.file)
        self._writer = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite."""
        return self.file is not None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, and waits for no writer. Raises DatabaseUnavailable."""
        with _told(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that reads, however long, and sees one moment throughout. Raises DatabaseUnavailable."""
        with _told(), self.engine.connect() as connection:
            if not self.is_sqlite:
                # SQLite knows nothing else.
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(text("SET LOCAL statement_timeout = 0"))
                yield connection

    @contextlib.contextmanager
    def writing(self, wait_seconds: float = BUSY_SECONDS) -> Iterator[Connection]:
        """A transaction that writes; rolled back by any exception.

        Raises DatabaseUnavailable, also where another writer lets it wait for longer than this.
        """
        with self._turn(wait_seconds) as left_seconds, _told(), self.engine.connect() as connection:
            connection.execution_options(**{_WAIT_MS: round(left_seconds * 1_000)})
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def _turn(self, wait_seconds: float) -> Iterator[float]:
        """How long to wait for writers of other processes.

        SQLite's writers look for its lock now and then, and one of many may never see it free; so threads queue.
        """
        if not self.is_sqlite:
            yield wait_seconds
            return
        began = monotonic()
        if not self._writer.acquire(timeout=wait_seconds):
            raise DatabaseUnavailable("other writers take too long")
        try:
            yield max(0.0, wait_seconds - (monotonic() - began))
        finally:
            self._writer.release()

    def upsert(self, table: Table) -> Any:
        """An INSERT of this dialect, which may say `on_conflict_do_update`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def insert_all(self, table: Table) -> Any:
        """`upsert` of many rows at once: `:rows` is a JSON array of rows, each an array of the table's columns.

        A statement with a thousand rows takes a third of the time of a thousand with one.
        """
        values: list[ColumnElement[Any]]
        rows = bindparam("rows", type_=Text)
        if self.is_sqlite:
            each = func.json_each(rows).table_valued("value").c.value
            values = [func.json_extract(each, f"$[{place}]") for place in range(len(table.c))]
        else:
            each = func.json_array_elements(cast(rows, JSON)).table_valued("value").c.value
            values = [cast(each.op("->>")(place), column.type) for place, column in enumerate(table.c)]
        # Without WHERE SQLite would take ON CONFLICT for the condition of a join.
        return self.upsert(table).from_select(list(table.c), select(*values).where(true()))

    def migrate(self) -> None:
        """Bring the schema up to date; several processes may do that at once.

        Raises ConfigError for a database of a newer version, DatabaseUnavailable.
        """
        if self.file is not None:
            _make(self.file)
        config = _alembic()
        script = ScriptDirectory.from_config(config)
        with self.reading() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        if found == script.get_current_head():
            return
        with self.writing(MIGRATION_SECONDS) as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise ConfigError(
                    ["GOVERNANCE_DATABASE_URL: this database was made by a newer version of Sentinel; use that one"]
                ) from error

    def ping(self) -> None:
        """See whether it answers. Raises DatabaseUnavailable."""
        with self.reading() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        told = type(cause).__name__
        if isinstance(error, OperationalError):
            # About the database: away, full, locked. What is about rows may quote them, and they hold addresses.
            told += f": {str(cause).partition(chr(10))[0]}"
        raise DatabaseUnavailable(told) from error


def _engine(url: str, file: Path | None) -> Engine:
    pool: dict[str, Any] = {"pool_size": _POOL, "max_overflow": 0, "pool_timeout": _POOL_SECONDS}
    if file is None:
        engine = create_engine(url, pool_pre_ping=True, connect_args=_options_of_postgresql(), **pool)
        event.listen(engine, "begin", _begin_postgresql)
        return engine
    # A file that is gone must not be made anew, without tables, by whoever wants to read it.
    name = f"file:{quote(str(file))}?mode=rw"
    engine = create_engine(url, creator=lambda: sqlite3.connect(name, uri=True, check_same_thread=False), **pool)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)

    @event.listens_for(engine, "checkout")
    def see_that_it_is_there(_: Any, record: Any, __: Any) -> None:
        """What is written into a file that was deleted or replaced is lost."""
        found = _identity(file)
        if found is None or record.info.setdefault("file", found) != found:
            raise DisconnectionError

    return engine


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make(file: Path) -> None:
    """Make it if it is not there: nobody else shall read it. Raises ConfigError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError as error:
        raise ConfigError([f"GOVERNANCE_DATABASE_URL: {file} cannot be made: {error.strerror}"]) from None


def _options_of_postgresql() -> dict[str, Any]:
    return {
        "connect_timeout": _CONNECT_SECONDS,
        "tcp_user_timeout": _SILENT_SECONDS * 1_000,
        "keepalives_idle": _SILENT_SECONDS,
        "keepalives_interval": _SILENT_SECONDS,
        "keepalives_count": 1,
        "options": f"-c statement_timeout={STATEMENT_SECONDS}s",
    }


def _begin_postgresql(connection: Connection) -> None:
    if (wait_ms := connection.get_execution_options().get(_WAIT_MS)) is not None:
        # Not lock_timeout: in a queue for a row that begins anew with each who leaves it.
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(wait_ms)}")


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # The driver's own way of beginning transactions leaves the first read out of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    # FULL: what was acknowledged survives a power cut, too.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    wait_ms = connection.get_execution_options().get(_WAIT_MS)
    if wait_ms is not None:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(wait_ms)}")
    connection.exec_driver_sql("BEGIN" if wait_ms is None else "BEGIN IMMEDIATE")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config

"""The database: SQLite in a file, or PostgreSQL. Connections, transactions, and the schema brought up to date.

Several processes may share one database. On SQLite a writing transaction takes the one lock there is at its beginning
(`BEGIN IMMEDIATE`), so that it never fails for having read something that another has changed; on PostgreSQL whoever
changes what belongs to users locks their rows first, in the order of their ids.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sentinel.config import ConfigError
from sentinel.governance_settings import GovernanceSettings

BUSY_SECONDS = 5.0
"""So long a writer of SQLite waits for another."""
CONNECT_SECONDS = 3
STATEMENT_SECONDS = 15
MIGRATION_LOCK = 0x53454E54
"""Of PostgreSQL's advisory locks: one process at a time changes the schema."""
_POOL = 10
_WRITES = "writes"


class DatabaseUnavailable(Exception):
    """The database cannot be reached, is locked, full, or broken. Its text is for operators, and holds no secret."""


class Database:
    """One database. Its transactions are used by one thread each."""

    def __init__(self, settings: GovernanceSettings) -> None:
        self.file = settings.sqlite_file
        self.engine = _engine(settings.governance_database_url, self.file)

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
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes; rolled back by any exception. Raises DatabaseUnavailable."""
        with _told(), self.engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def upsert(self, table: Table) -> Any:
        """An INSERT of this dialect, which may say `on_conflict_do_update`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def migrate(self) -> None:
        """Bring the schema up to date; several processes may do that at once.

        Raises ConfigError for a database of a newer version, DatabaseUnavailable.
        """
        config = _alembic()
        script = ScriptDirectory.from_config(config)
        with self.reading() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        if found == script.get_current_head():
            return
        with self.writing() as connection:
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
    except (DBAPIError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error
        raise DatabaseUnavailable(type(cause).__name__) from error


def _engine(url: str, file: Path | None) -> Engine:
    if file is None:
        options = {"connect_timeout": CONNECT_SECONDS, "options": f"-c statement_timeout={STATEMENT_SECONDS}s"}
        return create_engine(url, pool_pre_ping=True, pool_size=_POOL, connect_args=options)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"GOVERNANCE_DATABASE_URL: {file.parent} cannot be made: {error.strerror}"]) from None
    engine = create_engine(url, pool_size=_POOL, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


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
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config

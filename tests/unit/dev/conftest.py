"""Running simulators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.server import Server
from sentinel.dev.store import EmbeddedStore
from sentinel.dev.zion import ZionSimulator


@pytest.fixture
def openai_sim() -> OpenAISimulator:
    return OpenAISimulator()


@pytest.fixture
def openai_server(openai_sim: OpenAISimulator) -> Iterator[Server]:
    with Server(openai_sim.app) as server:
        yield server


@pytest.fixture
def zion_sim() -> ZionSimulator:
    return ZionSimulator()


@pytest.fixture
def zion_server(zion_sim: ZionSimulator) -> Iterator[Server]:
    with Server(zion_sim.app) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path / "store", appendfsync="always") as store:
        yield store

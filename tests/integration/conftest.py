"""Fixtures shared by the integration tests: a caller, faults that end with their test, a Zion without a process."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from sentinel.dev.zion import ZionSimulator
from tests.support.metering import other_zion
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    """Of a caller without limits."""
    return stack.user("ana@corp.test")[1]


@pytest.fixture
def no_faults(stack: Stack) -> Iterator[None]:
    """What a test has switched on is off for the next."""
    yield
    stack.simulators.zion.faults.clear()
    stack.simulators.openai.faults.clear()


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    """A provider that answers what the test wrote down last."""
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def scripted(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    """A Sentinel with that provider."""
    return stack.sentinel(OPENAI_API_URL=provider.url)


@pytest.fixture(scope="module")
def simulator() -> ZionSimulator:
    """A Zion for deliverers in the test's own process."""
    return ZionSimulator()


@pytest.fixture(scope="module")
def zion_url(simulator: ZionSimulator) -> Iterator[str]:
    """Where it listens."""
    with other_zion(simulator.app) as url:
        yield url


@pytest.fixture
def no_collector() -> Iterator[None]:
    """It comes seldom where Sentinel is served, and here it would look through what other tests have left."""
    gc.disable()
    yield
    gc.enable()

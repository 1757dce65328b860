"""Running simulators, and a plain HTTP client without any help of its own."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.server import Server
from sentinel.dev.store import EmbeddedStore
from sentinel.dev.zion import ZionSimulator


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    raw: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.raw)


Reservation = Callable[..., Answer]


@pytest.fixture
def ask() -> Reservation:
    """One request on a connection of its own."""

    def ask(
        method: str, url: str, json: object = None, headers: dict[str, str] | None = None, raw: bytes = b""
    ) -> Answer:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        body = raw if json is None else msgspec.json.encode(json)
        sent = {"Content-Type": "application/json", **(headers or {})} if body else headers or {}
        try:
            connection.request(method, address.path, body, sent)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    return ask


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait for a condition that another thread brings about."""

    def until(condition: Callable[[], object], seconds: float = 10) -> None:
        for _ in range(round(seconds / 0.005)):
            if condition():
                return
            threading.Event().wait(0.005)
        raise AssertionError("the condition did not come true")

    return until


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

"""Faults, on their own and through a simulator."""

from __future__ import annotations

import http.client
import threading
import time

import pytest

from sentinel.dev.faults import Fault, Faults
from sentinel.dev.openai import OpenAISimulator
from sentinel.dev.server import Server
from tests.support.client import Answer, ask
from tests.support.waiting import PATIENCE_SECONDS, wait_until


def test_nothing_happens_unless_set() -> None:
    """Fresh faults hit nobody."""
    assert Faults().take("/x") is None


def test_times_counts_down() -> None:
    """A fault for two requests hits two."""
    faults = Faults(status=503, times=2)
    assert [faults.take("/x") for _ in range(3)] == [Fault(status=503), Fault(status=503), None]


def test_other_paths_are_neither_hit_nor_counted() -> None:
    """A fault for a prefix leaves the rest alone."""
    faults = Faults(drop=True, times=1, path_prefix="/api/v1/usage")
    assert faults.take("/api/v1/users/me") is None
    assert faults.take("/api/v1/usage/external/increment") == Fault(drop=True)


def test_apply_then_faults_wait_for_a_usage_request() -> None:
    """Dropping after applying concerns requests that apply something."""
    faults = Faults(apply_then_drop=True, times=1)
    assert faults.take("/x") is None
    assert faults.take("/x", applies_usage=True) == Fault(apply_then_drop=True)


def test_set_replaces_everything_and_clear_ends_it() -> None:
    """Setting one fault forgets the others."""
    faults = Faults(status=500, times=3)
    faults.set(drop=True)
    assert (faults.status, faults.times, faults.drop) == (None, None, True)
    faults.clear()
    assert faults == Faults()


def test_an_unknown_fault_is_a_mistake() -> None:
    """A typo in a test must not pass as no fault."""
    with pytest.raises(TypeError):
        Faults().set(stauts=500)


def test_status_with_retry_after(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """A status fault answers in the service's own error shape."""
    openai_sim.faults.set(status=503, retry_after="7", times=1)
    answer = ask("GET", openai_server.url + "/v1/models")
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert answer.json["error"]["type"] == "server_error"
    assert ask("GET", openai_server.url + "/v1/models").status == 401


def test_garbage_body(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """A body fault answers 200 with these very bytes."""
    openai_sim.faults.body = b'{"id": "chatcmpl'
    answer = ask("GET", openai_server.url + "/v1/models")
    assert (answer.status, answer.body) == (200, b'{"id": "chatcmpl')


def test_drop(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """A dropped request gets no byte."""
    openai_sim.faults.drop = True
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask("GET", openai_server.url + "/v1/models")


def test_delay(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """A delay comes before the answer."""
    openai_sim.faults.delay_seconds = 0.1
    start = time.monotonic()
    ask("GET", openai_server.url + "/v1/models")
    assert time.monotonic() - start >= 0.1


def test_hang_ends_when_cleared(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """A hanging request is answered once the fault is cleared from another thread."""
    openai_sim.faults.hang = True
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(ask("GET", openai_server.url + "/v1/models")))
    thread.start()
    wait_until(lambda: len(openai_sim.calls) == 1)
    assert not answers
    openai_sim.faults.clear()
    thread.join(10)
    assert answers[0].status == 401


def test_hang_ends_when_the_client_leaves(openai_sim: OpenAISimulator, openai_server: Server) -> None:
    """A client that gives up leaves nothing behind in the server."""
    openai_sim.faults.hang = True
    connection = http.client.HTTPConnection("127.0.0.1", openai_server.port, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/v1/models")
    wait_until(lambda: openai_server.is_answering)
    connection.close()
    wait_until(lambda: not openai_server.is_answering)

"""What a process holds is bounded in sum: bodies, what comes out of them, heads, connections, answers, events."""

from __future__ import annotations

import gzip
import http.client
import json
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Answer
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import chat, head, is_closed, post, read_answer, send
from tests.support.waiting import PATIENCE_SECONDS, wait_until

MB = 1024 * 1024
CLIENTS = 24
BODY_BYTES = 29 * MB
BUDGET = 128 * MB
LARGEST_BODY = 32 * MB
NOISE = 96 * MB
"""Tables of threads that count (16 MB each), the first request, and what two bodies at once are copied to."""


def rss(sentinel: SentinelProcess) -> int:
    return int(Path(f"/proc/{sentinel.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def growth(sentinel: SentinelProcess) -> Iterator[Callable[[], int]]:
    """By how much the process has grown at most since here."""
    before = peak = rss(sentinel)
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.01):
            peak = max(peak, rss(sentinel))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield lambda: peak - before
    finally:
        ended.set()
        watching.join()


def large(size: int = BODY_BYTES) -> bytes:
    """A chat that is quick to count for its size."""
    return json.dumps({**chat("[[tokens=1]]"), "metadata": {"x": "y" * size}}).encode()


def opening(token: str, body: bytes, *lines: str) -> bytes:
    return head(headers=[f"authorization: Bearer {token}", f"content-length: {len(body)}", *lines])


def in_parallel(count: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def warm(sentinel: SentinelProcess, token: str) -> None:
    """What a first request and the first large one need stays."""
    assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
    assert post(sentinel, token, large(100_000)).status == 200


def test_a_used_up_limit_costs_no_memory(stack: Stack) -> None:
    """Who may send nothing is told so before the body is read, with the refusal that any request would get."""
    sentinel = stack.sentinel(RATE_LIMITS="ai_requests=1/60s")
    _, token = stack.user("used@corp.test")
    assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
    small, body = post(sentinel, token, chat()), large()

    def refused(_: int) -> Any:
        with raw_connection(sentinel) as connection:
            connection.sendall(opening(token, body))
            answer = read_answer(connection)
            # Who does not listen is not read into memory either.
            connection.sendall(body[:-1])
            return answer

    with growth(sentinel) as grown:
        answers = in_parallel(CLIENTS, refused)
    for answer in answers:
        assert answer.is_error(429, "rate_limit_exceeded", "requests")
        assert answer.error["details"].keys() == small.error["details"].keys()
        assert 1 <= int(answer.headers["retry-after"]) <= int(small.headers["retry-after"])
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert grown() < 16 * MB


@pytest.mark.parametrize("quota", ["ai_requests", "ai_input_tokens", "ai_output_tokens"])
def test_a_used_up_subscription_costs_no_memory(stack: Stack, sentinel: SentinelProcess, quota: str) -> None:
    """Whichever of its limits; the body is not asked for."""
    _, token = stack.user(f"{quota}@corp.test", limits={quota: 0})
    body = large()
    with raw_connection(sentinel) as connection:
        connection.sendall(opening(token, body, "expect: 100-continue"))
        assert read_answer(connection).is_error(429, "insufficient_quota", "insufficient_quota")


def test_large_bodies_take_turns_and_all_are_served(stack: Stack) -> None:
    """Of one user, all at once: no more is in memory than the budget, and the copies of what is worked on."""
    sentinel = stack.sentinel(REQUEST_BODY_TIMEOUT_SECONDS="50")
    _, token = stack.user("many@corp.test")
    warm(sentinel, token)
    body = large()

    def served(_: int) -> int:
        with raw_connection(sentinel) as connection:
            connection.settimeout(50)
            connection.sendall(opening(token, body) + body)
            return read_answer(connection, 50).status

    with growth(sentinel) as grown:
        assert in_parallel(CLIENTS, served) == [200] * CLIENTS
    assert grown() < BUDGET + LARGEST_BODY + NOISE
    wait_until(lambda: sentinel.metric("sentinel_buffered_bytes") == 0, "the return of all of it")


def test_bodies_that_do_not_end(stack: Stack) -> None:
    """The last byte is kept back: memory is bounded, others pass, and who waits in vain is told when to come back."""
    patience_seconds = 4
    sentinel = stack.sentinel(REQUEST_BODY_TIMEOUT_SECONDS=str(patience_seconds))
    tokens = [stack.user(f"stall{n}@corp.test")[1] for n in range(4)]
    _, other = stack.user("other@corp.test")
    warm(sentinel, other)
    body = large()

    def stalled(number: int) -> Any:
        with raw_connection(sentinel) as connection:
            connection.settimeout(PATIENCE_SECONDS)
            connection.sendall(opening(tokens[number % len(tokens)], body))
            sender = threading.Thread(target=_send_quietly, args=(connection, body[:-1]))
            sender.start()
            answer = read_answer(connection)
            connection.shutdown(socket.SHUT_RDWR)
            sender.join()
            return answer

    with growth(sentinel) as grown, ThreadPoolExecutor(CLIENTS) as threads:
        attack = [threads.submit(stalled, number) for number in range(CLIENTS)]
        wait_until(lambda: sentinel.metric("sentinel_buffered_bytes") > BUDGET / 2, "the attack")
        for size in (0, 500_000):
            started = time.monotonic()
            assert post(sentinel, other, large(size)).status == 200
            assert time.monotonic() - started < patience_seconds
        answers = [each.result() for each in attack]
    assert grown() < BUDGET + LARGEST_BODY + NOISE
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) <= {408, 503}
    assert statuses[503]
    assert all(int(answer.headers["retry-after"]) for answer in answers if answer.status == 503)
    wait_until(lambda: sentinel.metric("sentinel_buffered_bytes") == 0, "the return of all of it")
    assert post(sentinel, tokens[0], large()).status == 200


def _send_quietly(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        # It was refused meanwhile.
        return


def test_what_comes_out_of_a_coding_counts(stack: Stack, sentinel: SentinelProcess) -> None:
    """Thirty kilobytes that are thirty megabytes take turns as these do, also where a provider takes its time."""
    _, token = stack.user("coded@corp.test")
    warm(sentinel, token)
    text = chat("[[tokens=1 first_delay=1]]")
    body = gzip.compress(json.dumps({**text, "metadata": {"x": "y" * BODY_BYTES}}).encode())

    def served(_: int) -> int:
        with raw_connection(sentinel) as connection:
            connection.settimeout(50)
            connection.sendall(opening(token, body, "content-encoding: gzip") + body)
            return read_answer(connection, 50).status

    with growth(sentinel) as grown:
        statuses = Counter(in_parallel(12, served))
    assert statuses[200] >= 6
    assert set(statuses) <= {200, 503}
    # What is freed in a thread may be given back a little later than it is taken elsewhere.
    assert grown() < BUDGET + 2 * LARGEST_BODY + NOISE
    wait_until(lambda: sentinel.metric("sentinel_buffered_bytes") == 0, "the return of all of it")


def test_unfinished_heads_are_bounded_in_sum(stack: Stack, sentinel: SentinelProcess) -> None:
    """The oldest of 1,500 with 62 KB each are shown out, others are served, and the system gets its memory back."""
    _, token = stack.user("heads@corp.test")
    warm(sentinel, token)
    before = rss(sentinel)
    with ExitStack() as connections:
        opened = []
        for _ in range(1500):
            connection = connections.enter_context(raw_connection(sentinel))
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 62_000)
            opened.append(connection)
        assert read_answer(opened[0]).is_error(503, "service_unavailable", "server_error")
        assert is_closed(opened[0])
        assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
        assert sentinel.metric("sentinel_buffered_bytes") <= BUDGET / 8
        assert rss(sentinel) - before < BUDGET / 8 + 24 * MB
    wait_until(lambda: sentinel.metric("sentinel_buffered_bytes") == 0, "the end of them all")
    wait_until(lambda: rss(sentinel) - before < 16 * MB, "the return of the memory")


def test_connections_are_bounded(stack: Stack) -> None:
    """Who comes too much takes the place of the oldest that dawdles or rests, and is served."""
    sentinel = stack.sentinel(start=False)
    sentinel.command = ["sh", "-c", 'ulimit -n 600; exec "$@"', "-", *sentinel.command]
    sentinel.start()
    _, token = stack.user("late@corp.test")
    with ExitStack() as connections:
        dawdling: list[socket.socket] = []
        resting: list[socket.socket] = []
        for number in range(700):
            connection = connections.enter_context(raw_connection(sentinel))
            if number < 300:
                connection.sendall(b"POST /v1")
            (dawdling if number < 300 else resting).append(connection)
        assert read_answer(dawdling[0]).is_error(503, "service_unavailable", "server_error")
        assert is_closed(dawdling[0])
        resting[-1].sendall(head("/health/live", "GET"))
        assert read_answer(resting[-1]).status == 200
        assert post(sentinel, token, chat("[[tokens=1]]")).status == 200


def test_connections_to_the_provider_are_bounded_with_those_of_clients(stack: Stack) -> None:
    """Who rests gives way to who is served, who is too many hears when to come back, and some files are always left."""
    sentinel = stack.sentinel(start=False, RATE_LIMITS="")
    sentinel.command = ["sh", "-c", 'ulimit -n 256; exec "$@"', "-", *sentinel.command]
    sentinel.start()
    _, token = stack.user("files@corp.test")

    def ask(_: int) -> Answer | None:
        # Who has connected and not asked yet rests.
        with suppress(ConnectionError, http.client.RemoteDisconnected):
            return post(sentinel, token, chat("[[tokens=1 first_delay=4]]"))
        return None

    def files() -> int:
        return len(list(Path(f"/proc/{sentinel.pid}/fd").iterdir()))

    with ExitStack() as connections, ThreadPoolExecutor(120) as clients:
        for _ in range(100):
            connections.enter_context(raw_connection(sentinel))
        asked = [clients.submit(ask, number) for number in range(120)]
        wait_until(lambda: any(client.done() for client in asked), what="a first refusal")
        wait_until(lambda: files() < 256 - 16, what="free files while others are served")
        answers = [client.result() for client in asked]
    served = [answer for answer in answers if answer and answer.status == 200]
    assert 60 <= len(served) < 120
    for answer in answers:
        if answer and answer.status != 200:
            assert answer.is_error(503, "service_unavailable", "server_error")
            assert answer.headers["retry-after"] == "1"
    assert post(sentinel, token, chat("[[tokens=1]]")).status == 200


def test_whole_answers_are_bounded_in_sum(stack: Stack) -> None:
    """Large ones that nobody reads hold up their providers, not the memory; all of them are complete in the end."""
    size = 20 * MB
    told = {"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "stop"}], "x": "y" * size}
    answer = json.dumps({**told, "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()
    _, token = stack.user("answers@corp.test")
    body = json.dumps(chat()).encode()
    with ScriptedProvider() as provider:
        sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
        provider.says(answer)
        gate = threading.Event()

        def served(_: int) -> int:
            with raw_connection(sentinel) as connection:
                connection.settimeout(50)
                connection.sendall(opening(token, body) + body)
                gate.wait(3)
                got = http.client.HTTPResponse(connection)
                got.begin()
                return len(got.read())

        with growth(sentinel) as grown:
            assert in_parallel(CLIENTS, served) == [len(answer)] * CLIENTS
        assert grown() < BUDGET + 64 * MB + NOISE
    assert stack.booked(CLIENTS, "answers@corp.test")["ai_requests"] == CLIENTS


def test_large_events_are_bounded_in_sum(stack: Stack) -> None:
    """Streams that each stop in the middle of an event of megabytes, of a user whose output is limited."""
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"y" * (7 * MB)
    body = json.dumps(chat(stream=True)).encode()
    _, token = stack.user("events@corp.test", limits={"ai_output_tokens": 10**9})
    with ScriptedProvider() as provider, ExitStack() as connections:
        sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
        warm_body = json.dumps(chat()).encode()
        provider.says(b'{"choices":[]}')
        with raw_connection(sentinel) as connection:
            connection.sendall(opening(token, warm_body) + warm_body)
            assert read_answer(connection).status == 200
        provider.streams(piece, gate=threading.Event())
        with growth(sentinel) as grown:
            for _ in range(60):
                connection = connections.enter_context(raw_connection(sentinel))
                connection.sendall(opening(token, body) + body)
            wait_until(lambda: len(provider.posts()) == 61, "all streams")
            time.sleep(2)  # For whatever comes to have come; nothing tells that no more does.
            assert send(sentinel, "GET", "/health/live").status == 200
        assert grown() < BUDGET + 64 * MB + NOISE

"""Clients that leave, stall or are cut off: each is charged its input and exactly what was delivered.

About: `proxy/client.py`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from sentinel.cache import keys
from sentinel.cache.redis_ledger import read_account
from sentinel.dev.generation import Billed
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    GENERATIONS,
    MESSAGES,
    NATIVE,
    RESPONSES,
    STREAM_GENERATE,
    TRANSCRIPTIONS,
    asked,
    encoded,
    head,
    read_answer,
)
from tests.support.waiting import PATIENCE_SECONDS, wait_until

STALL_SECONDS = 2
"""So long a busy machine holds up a client that reads, too; so much longer the slow one must read."""
FORMATS = (COMPLETIONS, RESPONSES, MESSAGES, STREAM_GENERATE, NATIVE)
"""Beside the chat."""
WHOLE = (b"[DONE]", b"message_stop", b"response.completed", b"finishReason")
"""What a whole stream has."""
EVERY_FORMAT = (CHAT, *FORMATS)
COUNTED_MORE = 4
"""So much above the simulator's is our own count of the input in formats whose counts are estimates."""
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stall = str(STALL_SECONDS)
    with Stack(
        UPSTREAM_IDLE_TIMEOUT_SECONDS="3", CLIENT_STALL_TIMEOUT_SECONDS=stall, RATE_LIMITS="concurrency=2"
    ) as stack:
        yield stack


class Caller:
    """One caller of the stack, and what happens to their requests."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack, self.name, self.email = stack, name, f"{name}@corp.test"
        _, self.token = stack.user(self.email)
        self._seen = len(stack.simulators.openai.billed)

    def ask(
        self, sentinel: SentinelProcess, text: str, *, read_buffer: int = 0, path: str = CHAT, **fields: Any
    ) -> socket.socket:
        """Send a request, for a chat by default, over a connection of its own."""
        connection = socket.socket()
        if read_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(("127.0.0.1", sentinel.port))
        body = json.dumps(asked(path, text, **fields)).encode()
        lines = [f"authorization: Bearer {self.token}", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", "anthropic-version: 2023-06-01"]
        connection.sendall(head(path, headers=lines) + body)
        return connection

    @property
    def bill(self) -> Billed:
        """What the provider charges for this caller's one request, once it has come there."""
        billed = self.stack.simulators.openai.billed
        wait_until(lambda: len(billed) > self._seen, "the request at the provider")
        return billed[self._seen]

    def booked(self) -> tuple[int, int]:
        """Input and output tokens that Zion has booked, once it has the request."""
        used = self.stack.booked(1, self.email)
        assert used["ai_requests"] == 1
        return used["ai_input_tokens"], used["ai_output_tokens"]

    def outcome(self, sentinel: SentinelProcess) -> str:
        """What the log says of their one request, once it has ended."""
        (line,) = wait_until(lambda: [line for line in sentinel.ended() if line["user_id"] == self.name])
        return str(line["outcome"])

    def holds_nothing(self) -> bool:
        """Whether no reservation and no slot of theirs is left."""
        with redis.Redis.from_url(self.stack.store.url) as client:
            packed = client.get(keys.account_keys(self.name).account)
            account = read_account(packed) if packed else {"held": [0, 0, 0], "open": 0}
            leases = client.hlen(keys.account_keys(self.name).leases)
        return account["held"] == [0, 0, 0] and account["open"] == 0 and leases == 0


def read_until(connection: socket.socket, mark: bytes, times: int = 1) -> bytes:
    """Read until the mark has come so often."""
    got = b""
    while got.count(mark) < times:
        piece = connection.recv(65536)
        assert piece, got
        got += piece
    return got


def read_until_silence(connection: socket.socket, seconds: float = 0.5) -> bytes:
    """Read until nothing more comes."""
    got = b""
    connection.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        while piece := connection.recv(65536):
            got += piece
    return got


def streaming(
    connections: contextlib.ExitStack, sentinel: SentinelProcess, caller: Caller, path: str, text: str, **more: Any
) -> tuple[Caller, socket.socket]:
    """A stream of this format, of a model whose counts are exact, and all of one vocabulary."""
    fields: dict[str, Any] = {"model": "gpt-4o-mini"} if path in (COMPLETIONS, RESPONSES, MESSAGES) else {}
    connection = caller.ask(sentinel, text, path=path, stream=True, **fields, **more)
    return caller, connections.enter_context(closing(connection))


@pytest.mark.parametrize(
    ("directive", "fields", "mark"),
    [
        ("hang_after=6", {}, b'"content":" '),
        ("tool hang_after=3", {"tools": [TOOL]}, b'"arguments"'),
        ("refusal hang_after=4", {}, b'"refusal":" '),
    ],
    ids=["text", "tool", "refusal"],
)
def test_leaving_in_mid_stream(
    stack: Stack, sentinel: SentinelProcess, request: pytest.FixtureRequest, directive: str, fields: Any, mark: bytes
) -> None:
    """The provider's connection is closed soon, and the caller pays the input and what had come."""
    caller = Caller(stack, f"mid-{request.node.callspec.id}")
    with closing(caller.ask(sentinel, f"[[tokens=50 {directive}]]", stream=True, **fields)) as connection:
        wait_until(lambda: caller.bill.completion_tokens >= 3, "the first tokens")
        assert mark in read_until_silence(connection)
        sent = caller.bill.completion_tokens
        assert sent >= 3
        assert caller.bill.state == "running"
    wait_until(lambda: caller.bill.state == "cancelled", "the end of the provider's stream")
    inputs, outputs = caller.booked()
    # The simulator counts messages alone, we count tools, too.
    assert inputs > caller.bill.prompt_tokens if "tools" in fields else inputs == caller.bill.prompt_tokens
    assert outputs == sent
    wait_until(caller.holds_nothing, "the reservation's return")


@pytest.mark.parametrize(("order", "output"), [("hang_after=6", 6), ("first_delay=30", 0)])
def test_leaving_in_every_format(stack: Stack, sentinel: SentinelProcess, order: str, output: int) -> None:
    """In mid-stream the input and what had come is paid, before the first byte the input; the provider is left."""
    billed, seen = stack.simulators.openai.billed, len(stack.simulators.openai.billed)
    callers = [Caller(stack, f"leaves-{output}-{number}") for number in range(len(FORMATS))]
    with contextlib.ExitStack() as connections:
        asked = []
        for number, (caller, path) in enumerate(zip(callers, FORMATS, strict=True), 1):
            asked.append(streaming(connections, sentinel, caller, path, f"[[tokens=50 {order}]]")[1])
            wait_until(lambda: len(billed) == seen + number, "it at the provider")  # noqa: B023
        bills = list(billed)[seen:]
        wait_until(lambda: {bill.completion_tokens for bill in bills} == {output}, "the last tokens")
        if output:
            silences = (STALL_SECONDS * 0.75, *[0.2] * (len(asked) - 1))
            assert all(map(read_until_silence, asked, silences))
    for caller, bill in zip(callers, bills, strict=True):
        wait_until(lambda: bill.state == "cancelled", "the end of the provider's stream")  # noqa: B023
        inputs, outputs = caller.booked()
        assert 0 <= inputs - bill.prompt_tokens <= COUNTED_MORE
        assert outputs == output
        wait_until(caller.holds_nothing, "the reservation's return")


@pytest.mark.parametrize("order", ["hang_after=5", "break_after=5"])
def test_a_provider_that_is_silent_or_breaks(stack: Stack, sentinel: SentinelProcess, order: str) -> None:
    """In every format the stream ends with one error, and what had come is paid."""
    code = b"upstream_timeout" if "hang" in order else b"upstream_error"
    with contextlib.ExitStack() as connections:
        asked = [
            streaming(connections, sentinel, Caller(stack, f"{order[:4]}-{number}"), path, f"[[tokens=50 {order}]]")
            for number, path in enumerate(EVERY_FORMAT)
        ]
        for path, (_, connection) in zip(EVERY_FORMAT, asked, strict=True):
            got = read_until(connection, code if path != STREAM_GENERATE else code.upper())
            assert not any(mark in got for mark in WHOLE), path
    assert [caller.booked()[1] for caller, _ in asked] == [5] * len(EVERY_FORMAT)
    for caller, _ in asked:
        wait_until(caller.holds_nothing, "the reservation's return")


@pytest.mark.parametrize("path", [EMBEDDINGS, GENERATIONS, TRANSCRIPTIONS])
def test_leaving_before_an_answer_of_another_kind(stack: Stack, path: str) -> None:
    """The input that was sent on is paid, an image at the most that it can cost; nothing stays reserved."""
    with ScriptedProvider() as provider:
        provider.says(b"{}", late=threading.Event())
        sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
        caller = Caller(stack, f"leaves{path.replace('/', '-')}")
        body, kind = encoded(path)
        lines = [f"authorization: Bearer {caller.token}", f"content-type: {kind}", f"content-length: {len(body)}"]
        with raw_connection(sentinel) as connection:
            connection.sendall(head(path, headers=lines) + body)
            wait_until(provider.posts, "the request at the provider")
        assert (caller.booked()[1] > 0) == (path == GENERATIONS)
        wait_until(caller.holds_nothing, "the reservation's return")
        sentinel.kill()


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_byte(stack: Stack, sentinel: SentinelProcess, stream: bool) -> None:
    """Only the input is charged, and the provider is not kept busy."""
    caller = Caller(stack, f"early{stream}".lower())
    with closing(caller.ask(sentinel, "[[tokens=50 first_delay=30]]", stream=stream)):
        assert caller.bill.state == "running"
    wait_until(lambda: caller.bill.state == "cancelled", "the end of the provider's answer")
    assert caller.booked() == (caller.bill.prompt_tokens, 0)
    wait_until(caller.holds_nothing, "the reservation's return")


def test_leaving_while_the_provider_cannot_be_reached(stack: Stack) -> None:
    """What was not sent on costs nothing."""
    with socket.socket() as deaf, contextlib.ExitStack() as queue:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            # The kernel takes a connection or two for it, and lets all others wait.
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        away = stack.sentinel(OPENAI_API_URL=f"http://127.0.0.1:{deaf.getsockname()[1]}/v1")
        caller = Caller(stack, "unsent")
        with closing(caller.ask(away, "hello", stream=True)):
            wait_until(lambda: not caller.holds_nothing(), "the reservation")
        wait_until(caller.holds_nothing, "the reservation's return")
        assert caller.outcome(away) == "client_gone"
        (line,) = [line for line in away.ended() if line["user_id"] == "unsent"]
        assert (line["input_tokens"], line["tokens_from"]) == (0, "none")
        away.kill()


def test_leaving_after_the_last_byte(stack: Stack, sentinel: SentinelProcess) -> None:
    """Whoever leaves with the complete answer pays what the provider says."""
    caller = Caller(stack, "late")
    with closing(caller.ask(sentinel, "[[tokens=8 usage_completion=33]]", stream=True)) as connection:
        read_until(connection, b"[DONE]")
    assert caller.booked() == (caller.bill.prompt_tokens, 33)
    assert caller.outcome(sentinel) == "ok"


def test_a_drained_stream_costs_what_the_provider_bills(stack: Stack) -> None:
    """With ABANDONED_STREAMS=drain the provider goes on to its end, and its usage is charged."""
    draining = stack.sentinel(ABANDONED_STREAMS="drain")
    caller = Caller(stack, "drained")
    with closing(caller.ask(draining, "[[tokens=30 delay=0.02]]", stream=True)) as connection:
        read_until(connection, b'"content"', 2)
    wait_until(lambda: caller.bill.state == "complete", "the end of the provider's stream")
    assert caller.booked() == (caller.bill.prompt_tokens, 30)
    wait_until(caller.holds_nothing, "the reservation's return")
    assert draining.stop() == 0


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_a_stalled_reader(stack: Stack, sentinel: SentinelProcess) -> None:
    """Who does not read stops the provider, costs no memory, and is cut off after a while, in every format."""
    billed, seen = stack.simulators.openai.billed, len(stack.simulators.openai.billed)
    before = rss_bytes(sentinel.pid)
    with contextlib.ExitStack() as connections:
        callers = [Caller(stack, f"stalled-{place}") for place in range(len(EVERY_FORMAT))]
        for caller, path in zip(callers, EVERY_FORMAT, strict=True):
            more = {"max_tokens": 240_000} if path == MESSAGES else {}
            streaming(connections, sentinel, caller, path, "[[tokens=240000]]", read_buffer=4096, **more)
        wait_until(lambda: len(billed) == seen + len(callers), "all at the provider")
        bills = list(billed)[seen:]
        wait_until(lambda: all(bill.state == "cancelled" for bill in bills), "the end of the provider's streams")
        # All of them together are 250 MB.
        assert rss_bytes(sentinel.pid) - before < 24_000_000
        # What lay in the buffers between the two: a few megabytes of sockets.
        assert max(bill.completion_tokens for bill in bills) < 120_000
        booked = [caller.booked()[1] for caller in callers]
        assert min(booked) > 0
        assert sum(booked) <= sum(bill.completion_tokens for bill in bills)
        for caller in callers:
            wait_until(caller.holds_nothing, "the reservation's return")
    assert {caller.outcome(sentinel) for caller in callers} == {"client_gone"}


def test_a_slow_reader_is_served(stack: Stack, sentinel: SentinelProcess) -> None:
    """Who reads slowly, but reads, gets everything."""
    caller = Caller(stack, "slow")
    started, got = time.monotonic(), b""
    with closing(caller.ask(sentinel, "[[tokens=14000]]", read_buffer=4096, stream=True)) as connection:
        while not got.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"):
            time.sleep(0.001)  # As slow as this client is.
            piece = connection.recv(2048)
            assert piece
            got = got[-64:] + piece
    assert time.monotonic() - started > STALL_SECONDS
    assert caller.booked() == (caller.bill.prompt_tokens, 14_000)


def test_shutdown_does_not_wait_for_ever(stack: Stack) -> None:
    """Of each format a stream that outlives the grace period ends with an error, one that does not is whole.

    What came is charged and told; an answer that has not begun by then is 503, and free.
    """
    short = stack.sentinel(SHUTDOWN_GRACE_SECONDS="1", UPSTREAM_IDLE_TIMEOUT_SECONDS="60")
    billed, before = stack.simulators.openai.billed, len(stack.simulators.openai.billed)
    number, lates = len(EVERY_FORMAT), (CHAT, RESPONSES, MESSAGES)
    with contextlib.ExitStack() as connections:

        def ask(name: str, text: str) -> list[tuple[Caller, socket.socket]]:
            callers = [Caller(stack, f"{name}-{place}") for place in range(number)]
            each = zip(callers, EVERY_FORMAT, strict=True)
            return [streaming(connections, short, caller, path, text) for caller, path in each]

        outlive = ask("cut", "[[tokens=50 hang_after=7]]")
        late = [Caller(stack, f"late-{place}") for place in range(len(lates))]
        waiting = [
            connections.enter_context(closing(caller.ask(short, "[[first_delay=60]]", path=path)))
            for caller, path in zip(late, lates, strict=True)
        ]
        wait_until(lambda: [bill.completion_tokens for bill in list(billed)[before:]].count(7) == number, "the tokens")
        end = ask("whole", "[[tokens=9 delay=0.05]]")
        wait_until(lambda: len(billed) == before + 2 * number + len(late), "all at the provider")
        short.signal(signal.SIGTERM)
        for path, (_, connection) in zip(EVERY_FORMAT, outlive, strict=True):
            code = b"service_unavailable"
            got = read_until(connection, code.upper() if path == STREAM_GENERATE else code)
            assert not any(mark in got for mark in WHOLE), path
        assert [read_answer(connection).status for connection in waiting] == [503] * len(late)
        for _, connection in end:
            got = read_until(connection, b"\r\n0\r\n\r\n")
            assert any(mark in got for mark in WHOLE)
    assert short.stop(PATIENCE_SECONDS) == 0
    # Told by itself before its exit, or by the other process, whoever delivers this caller's usage.
    assert [caller.booked()[1] for caller, _ in outlive] == [7] * number
    assert [caller.booked()[1] for caller, _ in end] == [9] * number
    assert [stack.used(caller.email)["ai_requests"] for caller in late] == [0] * len(late)
    assert all(caller.holds_nothing() for caller in (*late, *(caller for caller, _ in (*outlive, *end))))

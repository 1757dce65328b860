"""Clients that leave when they have read enough: at the finish reason, or while a model thinks unseen."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sentinel.proxy import billing, relay
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, COMPLETIONS, MESSAGES, RESPONSES, STREAM_GENERATE, asked, head
from tests.support.waiting import AT_ONCE_SECONDS, wait_until

USAGE = {"prompt_tokens": 11, "completion_tokens": 5000, "total_tokens": 5011}
USAGE_SECONDS = 0.3
"""So long after the finish reason the usage comes."""
DONE = b"data: [DONE]\n\n"


def event(*choices: dict[str, Any], **fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({"id": "c", "choices": choices, **fields}).encode()


def text(index: int = 0, content: str = "one two") -> dict[str, Any]:
    return {"index": index, "delta": {"content": content}, "finish_reason": None}


def finish(index: int = 0, reason: str = "stop") -> dict[str, Any]:
    return {"index": index, "delta": {}, "finish_reason": reason}


CALL = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}
ENDINGS: dict[str, tuple[str, dict[str, Any], list[bytes]]] = {
    "chat": (CHAT, {}, [event(text()), event(finish())]),
    "one event": (CHAT, {}, [event({**text(), "finish_reason": "length"})]),
    "two choices": (CHAT, {"n": 2}, [event(text()), event(text(1)), event(finish()), event(finish(1))]),
    "tool calls": (CHAT, {}, [event({"index": 0, "delta": {"tool_calls": [CALL]}}), event(finish(0, "tool_calls"))]),
    "completions": (COMPLETIONS, {}, [event({"index": 0, "text": "one two"}), event(finish())]),
    "best of three": (COMPLETIONS, {"best_of": 3}, [event({"index": 0, "text": "a", "finish_reason": "stop"})]),
}


def named(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


_TOLD = {"input_tokens": 11, "output_tokens": 5000}
_SAID = {"candidates": [{"content": {"parts": [{"text": "one two"}]}}]}
_ENDED = {"candidates": [{"content": {"parts": [{"text": ""}]}, "finishReason": "STOP"}]}
LAST_EVENTS = {
    RESPONSES: [
        named("response.created", response={"id": "resp_1", "status": "in_progress"}),
        named("response.output_text.delta", output_index=0, content_index=0, delta="one two"),
        named("response.completed", response={"id": "resp_1", "status": "completed", "usage": _TOLD}),
    ],
    MESSAGES: [
        named("message_start", message={"id": "m", "role": "assistant", "content": [], "usage": {"input_tokens": 11}}),
        named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        named("content_block_delta", index=0, delta={"type": "text_delta", "text": "one two"}),
        named("content_block_stop", index=0),
        named("message_delta", delta={"stop_reason": "end_turn"}, usage=_TOLD) + named("message_stop"),
    ],
    STREAM_GENERATE: [
        b"data: %b\n\n" % json.dumps(_SAID).encode(),
        b"data: %b\n\n"
        % json.dumps({**_ENDED, "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 5000}}).encode(),
    ],
}
"""The events of a stream in formats that tell usage with its end."""


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def sentinel(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(OPENAI_API_URL=provider.url)


class Leaver:
    """A caller who reads a stream up to some mark and closes the connection; what they are charged."""

    def __init__(self, stack: Stack, provider: ScriptedProvider, name: str) -> None:
        self.stack, self.provider, self.name = stack, provider, name.replace(" ", "-")
        self.email = f"{self.name}@corp.test"
        self.token = stack.user(self.email)[1]
        self.gate = threading.Event()

    def leaves(
        self,
        sentinel: SentinelProcess,
        *writes: bytes,
        path: str = CHAT,
        mark: bytes = b"finish_reason",
        at_mark: Callable[[], object] = lambda: None,
        late: threading.Event | None = None,
        **fields: Any,
    ) -> None:
        """Ask, read until the mark, let something happen, close.

        writes: the second comes when the gate opens. late: before it not even the head comes.
        """
        self.provider.streams(*writes, gate=self.gate, late=late)
        named = {} if path == STREAM_GENERATE else {"model": "gpt-4o-mini", "stream": True}
        body = json.dumps(asked(path, "hi", **{**named, **fields})).encode()
        with raw_connection(sentinel) as connection:
            lines = [f"authorization: Bearer {self.token}", f"content-length: {len(body)}"]
            connection.sendall(head(path, headers=lines) + body)
            _read_until(connection, mark)
            at_mark()

    def booked(self) -> tuple[int, int]:
        used = self.stack.booked(1, self.email)
        return used["ai_input_tokens"], used["ai_output_tokens"]


def _read_until(connection: socket.socket, mark: bytes) -> None:
    data = b""
    while mark not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece


@pytest.mark.parametrize("model", ["gpt-4o-mini", "o3-mini"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_who_has_the_finish_reason_pays_what_the_provider_bills(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, ending: str, model: str
) -> None:
    """The answer is complete, and its usage comes a moment later."""
    path, fields, writes = ENDINGS[ending]
    leaver = Leaver(stack, provider, f"{ending}-{model}")
    last = b'"finish_reason": "' if "choices" not in ending else b'"index": 1, "delta": {}'
    leaver.leaves(sentinel, b"".join(writes), event(usage=USAGE) + DONE, path=path, mark=last, model=model, **fields)
    threading.Timer(USAGE_SECONDS, leaver.gate.set).start()
    assert leaver.booked() == (11, 5000)


@pytest.mark.parametrize("path", LAST_EVENTS)
def test_who_has_the_last_event_pays_what_it_tells(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, path: str
) -> None:
    """In formats whose end and usage come in one event, of which nobody gets the one without paying for the other."""
    *before, last = LAST_EVENTS[path]
    leaver = Leaver(stack, provider, f"last-{list(LAST_EVENTS).index(path)}")
    leaver.gate.set()
    leaver.leaves(sentinel, b"".join(before), last, path=path, mark=b"5000")
    assert leaver.booked() == (11, 5000)


def test_at_shutdown_too(stack: Stack, provider: ScriptedProvider) -> None:
    """A process that ends right then waits for the usage, though not for ever."""
    short = stack.sentinel(OPENAI_API_URL=provider.url, SHUTDOWN_GRACE_SECONDS="1")
    leaver = Leaver(stack, provider, "shutdown")

    def end() -> None:
        short.signal(signal.SIGTERM)
        # Later than its grace ends, and it cuts all streams off.
        threading.Timer(1 + USAGE_SECONDS, leaver.gate.set).start()
        wait_until(lambda: not short.running, "the end")

    leaver.leaves(short, event(text()) + event(finish()), event(usage=USAGE) + DONE, at_mark=end)
    assert leaver.booked() == (11, 5000)


def test_one_choice_of_two_is_not_all(stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider) -> None:
    """As long as text may come the provider is left with its client, and what was delivered is charged."""
    leaver = Leaver(stack, provider, "half")
    first = event(text()) + event(text(1)) + event(finish())
    leaver.leaves(sentinel, first, event(usage=USAGE) + DONE, n=2, mark=b'"finish_reason": "stop"')
    assert leaver.booked()[1] == 4


NEVER = b": never\n\n"
UNSEEN = "o3-mini"


@dataclass(frozen=True)
class Left:
    """Somebody who left a provider that then says nothing more, and when."""

    leaver: Leaver
    started: float


@pytest.fixture(scope="module")
def left(stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider) -> dict[str, Left]:
    """All of them at once, for each is waited for as long."""
    quick = stack.sentinel(OPENAI_API_URL=provider.url, STREAM_KEEPALIVE_SECONDS="0.5")
    found: dict[str, Left] = {}

    def leaver(name: str) -> Leaver:
        found[name] = Left(Leaver(stack, provider, name), time.monotonic())
        return found[name].leaver

    finished = event(text()) + event(finish())
    leaver("at the end").leaves(sentinel, finished, NEVER, mark=b'"finish_reason": "stop"')
    leaver("in mid-stream").leaves(sentinel, event(text()), NEVER, mark=b'"one two"', model=UNSEEN)
    bounded: dict[str, Any] = {"model": UNSEEN, "max_completion_tokens": 50}
    leaver("bounded").leaves(sentinel, event(text()), NEVER, mark=b'"one two"', **bounded)
    before_the_head = leaver("before the head")
    before_the_head.leaves(quick, event(text()), mark=b": keep-alive", late=threading.Event(), model=UNSEEN)
    return found


def test_usage_that_does_not_come(left: dict[str, Left]) -> None:
    """Is not waited for for ever, and what was delivered is charged."""
    one = left["at the end"]
    assert one.leaver.booked()[1] == 2
    assert relay.LAST_USAGE_SECONDS <= time.monotonic() - one.started < relay.LAST_USAGE_SECONDS + AT_ONCE_SECONDS
    assert one.leaver.stack.booked(1, one.leaver.email)["ai_requests"] == 1


class TestThinkingUnseen:
    """A client that leaves a model which bills more than it shows."""

    def test_its_usage_is_waited_for(self, stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider) -> None:
        """For some seconds, wherever the client left."""
        leaver = Leaver(stack, provider, "soon")
        rest = event(text()) + event(finish()) + event(usage=USAGE) + DONE
        leaver.leaves(sentinel, event(text()), rest, mark=b'"one two"', model="o3-mini")
        threading.Timer(USAGE_SECONDS, leaver.gate.set).start()
        assert leaver.booked() == (11, 5000)

    @pytest.mark.parametrize("when", ["in mid-stream", "before the head"])
    def test_else_it_is_charged_for_the_time(self, left: dict[str, Left], when: str) -> None:
        """More than any model thinks in that time, and far less than the 100,000 that it may think in all."""
        output = left[when].leaver.booked()[1]
        assert output > 0.4 * billing.UNSEEN_TOKENS_PER_SECOND
        assert output <= (time.monotonic() - left[when].started) * billing.UNSEEN_TOKENS_PER_SECOND

    def test_but_not_for_more_than_was_reserved(self, left: dict[str, Left]) -> None:
        """The provider was told that maximum."""
        assert left["bounded"].leaver.booked()[1] == 50

"""What is particular to chat: what a request says of its output, and what is freed of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.completions import COMPLETIONS
from sentinel.endpoints.endpoint import UNCHANGED, OutputBound
from sentinel.error import InternalError, body_of, event_of
from sentinel.limits.policy import Verdict
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.counter import TokenCounter

HELLO = [{"role": "user", "content": "hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": HELLO, **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "choices", "client_max", "in_sight", "hides"),
    [
        ({}, 1, None, False, False),
        ({"n": 3, "stream": True}, 3, None, True, False),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 1, 9, False, False),
        ({"max_tokens": 5, "max_completion_tokens": None}, 1, 5, False, False),
        ({"max_completion_tokens": 9}, 1, 9, False, False),
        ({"model": "o1", "stream": True}, 1, None, False, True),
    ],
)
def test_what_a_request_says_of_its_output(
    fields: dict[str, Any], choices: int, client_max: int | None, in_sight: bool, hides: bool
) -> None:
    """Of two maxima the larger; what a model thinks unseen does not grow in sight."""
    found = CHAT.bound(CHAT.read(body(**fields)))
    assert found == OutputBound(choices, choices, client_max, None, in_sight, True, hides)


def test_the_prompt_is_forgotten_once_it_is_counted() -> None:
    """A large one is in memory twice else; what is decided later stays."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    request = CHAT.read(body(tools=[tool], tool_choice="auto", stream=True))
    assert CHAT.count(request, TokenCounter()) > 10
    CHAT.forget_prompt(request)
    assert (request.messages, request.tools, request.functions, bytes(request.tool_choice)) == ([], None, None, b"")
    assert (request.model, request.stream) == ("gpt-4o", True)


def test_a_request_that_needs_no_change_keeps_its_bytes() -> None:
    """Whatever is in them, and however it is written."""
    sent = body(stream=True, stream_options={"include_usage": True})
    request = CHAT.read(sent)
    changes = CHAT.changes(request, CHAT.bound(request), None)
    assert changes is UNCHANGED
    assert CHAT.changed(sent, request, changes) is sent


@pytest.mark.parametrize("fields", [{}, {"stream_options": {}}, {"stream_options": {"include_usage": False}}])
def test_usage_is_asked_for_in_streams_alone(fields: dict[str, Any]) -> None:
    """And whose field it is then: a refusal of it is none of the client's affair where it sent none."""
    request = CHAT.read(body(stream=True, **fields))
    changes = CHAT.changes(request, CHAT.bound(request), None)
    assert (changes.ask_usage, changes.adds_usage) == (True, not fields)
    whole = CHAT.read(body(**fields))
    assert CHAT.changes(whole, CHAT.bound(whole), None) is UNCHANGED


def test_a_maximum_is_told_by_the_name_that_chat_has_for_it() -> None:
    """It is ours alone where the client gave none; else the client's own is lowered."""
    request = CHAT.read(body())
    changes = CHAT.changes(request, CHAT.bound(request), 7)
    assert (changes.output_max, changes.adds_max) == (7, True)
    assert json.loads(CHAT.changed(body(), request, changes))["max_completion_tokens"] == 7
    named = body(max_tokens=50)
    request = CHAT.read(named)
    changes = CHAT.changes(request, CHAT.bound(request), 7)
    assert not changes.adds_max
    assert json.loads(CHAT.changed(named, request, changes))["max_tokens"] == 7


def test_errors_have_the_form_of_openai() -> None:
    """As an answer, and as the last event of a stream."""
    error = InternalError("no")
    assert CHAT.render(error, "req_1") == body_of(error)
    assert CHAT.render_event(error, None, "req_1") == event_of(error)


def test_its_headers_are_those_of_openai() -> None:
    """What else others look for is not there."""
    assert CHAT.id_lines(b"req_1") == b"x-request-id: req_1\r\n"
    assert CHAT.limit_lines(Verdict(True, 0)) == b""


def test_a_whole_answer_is_read_and_can_become_a_stream() -> None:
    """For a client that was told meanwhile to expect one; a refusal becomes an event."""
    answer = json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        }
    ).encode()
    reading = CHAT.read_answer(answer)
    assert reading is not None
    assert (reading.usage.prompt_tokens, reading.usage.output_tokens) == (9, 1)
    assert b'"delta"' in CHAT.as_stream(answer)
    assert CHAT.refusal_as_stream(400, b'{"error":{"message":"no"}}').startswith(b"data: ")


def test_what_it_is_not() -> None:
    """A chat names its model, has no job behind it, and its answers pass as they come."""
    request = CHAT.read(body())
    assert (CHAT.chooses_model, CHAT.rewrites, CHAT.job_kind(request)) == (False, False, "")
    asked: list[Callable[[], object]] = [
        lambda: CHAT.tier_of(request),
        lambda: CHAT.choose(request, "gpt-4o"),
        lambda: CHAT.rewritten(b"{}"),
        lambda: CHAT.passed_tokens(request, 1),
    ]
    for ask in asked:
        with pytest.raises(NotImplementedError):
            ask()


@pytest.mark.parametrize(("store", "creates"), [(None, False), (False, False), (True, True), ("yes", True)])
def test_what_is_kept(store: object, creates: bool) -> None:
    """Only what the request wants to be kept is created; what is no boolean may be read as one."""
    body = {"model": "m", "messages": [], **({} if store is None else {"store": store})}
    assert CHAT.creates_with(CHAT.read(json.dumps(body).encode())) is creates


def test_the_id_of_a_completion() -> None:
    """Of a whole one, and of the first events of a stream."""
    assert CHAT.created(b'{"id": "c1"}') == ("c1",)
    assert CHAT.created(b': hi\n\ndata: {"id":"c1"}\n\ndata: {"id":"c1"}\n\ndata: [DONE]\n\n') == ("c1",)
    assert CHAT.created(b"[]") == CHAT.created(b'{"id": 3}') == ()
    request = CHAT.read(body(stream=True))
    meter = CHAT.meter(request, NO_SECRET)
    meter.inspect(first := b'data: {"id":"c1","choices":[{"delta":{}}]}\n\n')
    assert CHAT.telling(meter) == first


def test_what_creates_nothing() -> None:
    """Is asked, where it could, for its last event."""
    request = COMPLETIONS.read(b'{"model": "m", "prompt": "x", "stream": true}')
    assert COMPLETIONS.creates_with(request)
    assert COMPLETIONS.telling(COMPLETIONS.meter(request, NO_SECRET)) == b""
    assert COMPLETIONS.created(b"") == ()

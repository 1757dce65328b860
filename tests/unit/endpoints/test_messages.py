"""What is particular to Anthropic's messages: a required maximum, thinking, and the changes that a limit asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.endpoint import UNCHANGED, Changes
from sentinel.endpoints.messages import MESSAGES
from sentinel.error import InvalidJson, InvalidType, MissingParameter
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import Usage

START = b'{"model":"m","max_tokens":1,"messages":'
TURNS = [{"role": "user", "content": "hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "claude-sonnet-5-5", "max_tokens": 9000, "messages": TURNS, **fields}).encode()


def test_a_request_is_counted_and_forgotten() -> None:
    """What is decided later stays."""
    request = MESSAGES.read(body(system="Be brief", tools=[{"name": "f", "input_schema": {}}]))
    assert MESSAGES.count(request, TokenCounter()) > 346
    MESSAGES.forget_prompt(request)
    assert (request.messages, request.system, request.tools, request.max_tokens) == ([], None, None, 9000)


@pytest.mark.parametrize(
    ("sent", "kind", "param"),
    [
        (b'{"model":"m","messages":[]}', MissingParameter, "max_tokens"),
        (b'{"max_tokens":1,"messages":[]}', MissingParameter, "model"),
        (body(max_tokens=None), InvalidType, "max_tokens"),
        (body(max_tokens=-1), InvalidType, "max_tokens"),
        (body(stream=1), InvalidType, "stream"),
        (START + b'[{"role":"user","content":[{"type":"a","text":5}]}]}', InvalidType, "messages[0].content[0].text"),
        (START + b'[],"thinking":{"type":"enabled","type":"disabled"}}', InvalidJson, "thinking.type"),
        (START + b'[{"role":"user","content":[{"type":"a","content":[{"type":"b","text":"c","text":"d"}]}]}]}',
         InvalidJson, "messages[0].content[0].content[0].text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(sent: bytes, kind: type[Exception], param: str) -> None:
    """Also deep within blocks: what is counted is what the provider reads."""
    with pytest.raises(kind) as raised:
        MESSAGES.read(sent)
    assert getattr(raised.value, "param", None) == param


@pytest.mark.parametrize(
    ("fields", "grows", "hides"),
    [
        ({}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "thinking": {"type": "disabled"}}, True, False),
        ({"stream": True, "thinking": {"type": "adaptive"}}, False, True),
        ({"stream": True, "thinking": {"type": "enabled", "budget_tokens": 2000}}, False, True),
    ],
)
def test_of_thinking_more_is_billed_than_shown(fields: dict[str, Any], grows: bool, hides: bool) -> None:
    """The client's maximum bounds both."""
    bound = MESSAGES.bound(MESSAGES.read(body(**fields)))
    assert (bound.client_max, bound.grows_in_sight, bound.hides_output) == (9000, grows, hides)


def test_a_body_that_needs_no_change_stays() -> None:
    """Byte for byte; also where more is left than its maximum."""
    sent = body()
    request = MESSAGES.read(sent)
    assert MESSAGES.changes(request, MESSAGES.bound(request), None) is UNCHANGED
    assert MESSAGES.changed(sent, request, UNCHANGED) is sent
    assert MESSAGES.changed(sent, request, Changes(output_max=9000)) is sent


@pytest.mark.parametrize(
    ("thinking", "left", "told"),
    [
        (None, 5000, None),
        ({"type": "adaptive"}, 5000, {"type": "adaptive"}),
        ({"type": "enabled", "budget_tokens": 4000}, 5000, {"type": "enabled", "budget_tokens": 4000}),
        ({"type": "enabled", "budget_tokens": 8000, "x": 1}, 5000, {"type": "enabled", "budget_tokens": 4999, "x": 1}),
        ({"type": "enabled", "budget_tokens": 8000}, 1025, {"type": "enabled", "budget_tokens": 1024}),
        ({"type": "enabled", "budget_tokens": 8000}, 1024, {"type": "disabled"}),
    ],
)
def test_a_maximum_is_lowered_and_with_it_the_budget_of_thinking(
    thinking: dict[str, Any] | None, left: int, told: dict[str, Any] | None
) -> None:
    """Which must be less, and at least 1,024; everything else stays."""
    sent = body(**({} if thinking is None else {"thinking": thinking}), metadata={"a": 1.0})
    request = MESSAGES.read(sent)
    changes = MESSAGES.changes(request, MESSAGES.bound(request), left)
    changed = MESSAGES.changed(sent, request, changes)
    expected = {**json.loads(sent), "max_tokens": left, **({} if told is None else {"thinking": told})}
    assert json.loads(changed) == expected
    assert b'"metadata":{"a": 1.0}' in changed


def test_the_other_decisions_are_those_of_the_format() -> None:
    """Its stream and its answers are in test_message_stream.py and tokens/test_message_answer.py."""
    request = MESSAGES.read(body())
    meter = MESSAGES.meter(request, NO_SECRET)
    assert MESSAGES.ending(request, meter, Usage(5, 0)).endswith(b'data: {"type":"message_stop"}\n\n')
    reading = MESSAGES.read_answer(b'{"content":[{"type":"text","text":"a"}]}')
    assert reading is not None
    assert reading.is_generated
    assert MESSAGES.as_stream(b'{"content":[]}').startswith(b"event: message_start\n")
    assert MESSAGES.refusal_as_stream(400, b"no").startswith(b"event: error\n")

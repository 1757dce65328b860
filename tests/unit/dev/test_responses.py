"""What the simulator of OpenAI answers to /v1/responses: events in their order, and what they cost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.dev.bodies import BAD_LINE
from sentinel.dev.directive import NONE, Directive
from sentinel.dev.reply import Piece, Reply, say
from sentinel.dev.responses import ResponseEnvelope, as_in_a_chat, messages_of

TOOL = {"type": "function", "name": "f", "parameters": {}}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "sun"}


def envelope(reasoning: int = 0, **body: Any) -> ResponseEnvelope:
    return ResponseEnvelope("resp_" + "1" * 48, "gpt-4o-mini", 1, {"input": "hi", **body}, reasoning)


def read(data: bytes) -> dict[str, Any]:
    name, line = data.decode().removesuffix("\n\n").split("\n")
    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    return event


def stream(own: ResponseEnvelope, reply: Reply, directive: Directive = NONE) -> list[dict[str, Any]]:
    """All events, in their order and numbered."""
    sent = [event.data for event in own.events([reply], directive)]
    sent += own.ending([reply], own.usage(9, reply.tokens + own.reasoning), directive)
    found = [read(data) for data in sent if data is not BAD_LINE]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_a_text_has_all_the_events_of_openai() -> None:
    """And costs as many tokens as it has pieces."""
    reply = say(NONE, 0, 2)
    kinds = [event["type"].removeprefix("response.") for event in stream(envelope(), reply)]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
        "incomplete",
    ]
    assert sum(event.tokens for event in envelope().events([reply], NONE)) == 2
    last = stream(envelope(), reply)[-1]["response"]
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (last["usage"]["output_tokens"], last["output"][0]["content"][0]["text"]) == (2, reply.text)


def test_calls_refusals_and_thoughts() -> None:
    """Each in its own item."""
    call = Reply("tool", (Piece("", 1), Piece("{"), Piece("}")), "tool_calls", "f")
    *_, said, done, last = stream(envelope(5), call)
    assert (said["arguments"], said["name"], done["item"]["arguments"]) == ("{}", "f", "{}")
    assert [item["type"] for item in last["response"]["output"]] == ["reasoning", "function_call"]
    assert last["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 5}
    refusal = say(Directive(refusal=True), 0, None)
    assert stream(envelope(), refusal)[-1]["response"]["output"][0]["content"][0]["refusal"] == refusal.text
    # All that it may say it has thought.
    assert stream(envelope(5), say(NONE, 0, 0))[-1]["response"]["output"] == [
        {"id": "rs_" + "1" * 48, "type": "reasoning", "summary": []}
    ]


def test_whole_it_says_the_same() -> None:
    """With the fields of its request."""
    reply, own = say(NONE, 0, None), envelope(instructions="Be kind.", temperature=None)
    whole = json.loads(own.whole([reply], own.usage(9, 13)))
    assert whole == stream(own, reply)[-1]["response"]
    assert (whole["status"], whole["instructions"], whole["temperature"]) == ("completed", "Be kind.", 1.0)


@pytest.mark.parametrize("directive", [Directive(bad_line=True), Directive(big_event=1000), Directive(no_done=True)])
def test_what_a_directive_wants(directive: Directive) -> None:
    """In the middle of a stream, and at its end."""
    own, reply = envelope(), say(NONE, 0, None)
    sent = [event.data for event in own.events([reply], directive)]
    assert (BAD_LINE in sent) == directive.bad_line
    assert any(len(data) > 1000 for data in sent) == (directive.big_event is not None)
    assert bool(own.ending([reply], None, directive)) == (not directive.no_done)
    stream(own, reply, directive)


def test_the_request_as_a_chat() -> None:
    """What was called is called once; then it is answered."""
    body = {
        "input": [{"role": "user", "content": "hi"}, {"type": "reasoning"}, CALL, RESULT],
        "tools": [TOOL, {"type": "x"}],
    }
    assert [message["role"] for message in messages_of(body)] == ["user", "assistant", "tool"]
    assert as_in_a_chat(body)["tool_choice"] == "none"
    form = {"type": "json_schema", "name": "x", "schema": {}}
    named = {"input": "hi", "tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}, "text": {"format": form}}
    assert as_in_a_chat(named) == {
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": form},
    }


def test_one_that_fails_on_its_way() -> None:
    """Says so in its last event, with a number above those before."""
    event = read(envelope().failure())
    assert (event["type"], event["response"]["status"]) == ("response.failed", "failed")
    assert event["response"]["error"]["code"] == "server_error"
    assert event["sequence_number"] > 1000

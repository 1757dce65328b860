"""Events read in one go say what they say one by one, in each format that reads runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.messages import MESSAGES
from sentinel.endpoints.responses import RESPONSES
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import NO_SECRET
from sentinel.proxy.sse import split_events
from sentinel.tokens import answer, message_answer, responses_answer


def _chat(delta: Any, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **more}
    return b"data: %b\n\n" % json.dumps({"id": "c", "choices": [choice], "usage": None}).encode()


def _response(kind: str = "output_text", delta: str = " word", number: int = 4, **more: Any) -> bytes:
    event = {"type": f"response.{kind}.delta", "delta": delta, "sequence_number": number, "output_index": 0, **more}
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())


def _message(index: int = 0, **delta: Any) -> bytes:
    event = {"type": "content_block_delta", "index": index, "delta": delta}
    return b"event: content_block_delta\ndata: %b\n\n" % json.dumps(event).encode()


_WORD = _chat({"content": " word"})
_STRANGE = [
    b": keep-alive\n\n",
    b"data: \n\n",
    b"data: [DONE]\n\n",
    b"\n\n",
    b"id: 7\n" + _WORD,
    _WORD.replace(b"\n\n", b"\nid: 7\n\n"),
    _WORD.replace(b"\n\n", b"\r\n\r\n"),
    _WORD.replace(b"\n\n", b"," + _WORD[6:]),
    b'data: {"choices":[{"delta":{"content":"a\ndata: b"}}]}\n\n',
    b"data: {\n\n",
    b"data: 1\n\n",
    b'event: error\ndata: {"error":{"message":"no"}}\n\n',
    b'data: {"error":{"message":"no"}}\n\n',
]
EVENTS = {
    "chat": [
        _WORD,
        _chat({"content": " two words"}),
        _chat({"role": "assistant", "content": ""}),
        _chat({"reasoning_content": " thought", "content": None}),
        _chat({"reasoning": " thought"}),
        _chat({"content": " b"}, index=1),
        _chat({}, finish_reason="stop"),
        _chat({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}),
        _chat({"new_field": " text"}),
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12}}\n\n',
    ],
    "responses": [
        _response(),
        _response(delta=" two words", number=5),
        _response(delta=""),
        _response(content_index=1),
        _response("reasoning_summary_text", summary_index=1),
        _response("function_call_arguments"),
        _response("audio"),
        _response(strange=" text"),
        b'event: response.output_text.done\ndata: {"type":"response.output_text.done","text":" word and more"}\n\n',
        _response(delta=" behind", number=3),
    ],
    "messages": [
        _message(type="text_delta", text=" word"),
        _message(type="text_delta", text=" two words"),
        _message(type="text_delta", text=""),
        _message(1, type="text_delta", text=" b"),
        _message(type="thinking_delta", thinking=" thought"),
        _message(type="input_json_delta", partial_json='{"a":1}'),
        _message(type="signature_delta", signature="abc"),
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
        b'event: ping\ndata: {"type":"ping"}\n\n',
    ],
}
BODIES = {
    "chat": (CHAT, b'{"model":"gpt-4o","messages":[]}'),
    "responses": (RESPONSES, b'{"model":"gpt-4o","input":""}'),
    "messages": (MESSAGES, b'{"model":"gpt-4o","messages":[],"max_tokens":9}'),
}
RUNS = {"chat": answer.read_run, "responses": responses_answer.parse_run, "messages": message_answer.read_run}


def _meter(name: str) -> StreamMeter:
    endpoint, body = BODIES[name]
    meter: StreamMeter = endpoint.meter(endpoint.read(body), NO_SECRET)  # type: ignore[attr-defined]
    meter.hold_whole()
    return meter


def _said(meter: StreamMeter) -> dict[str, Any]:
    meter.count()
    meter.deliver_last()
    names = ("usage", "finished", "failed", "malformed", "generated", "usage_is_final", "open", "has_told_end")
    said = {name: getattr(meter, name) for name in names if hasattr(meter, name)}
    items = getattr(meter, "items", None)
    return {**said, "tokens": meter.count(), "items": items and (items.close(), items.sequence)}


@pytest.mark.parametrize("name", EVENTS)
@given(data=st.data())
def test_a_run_says_what_its_events_say(name: str, data: st.DataObject) -> None:
    """Most are plain text, so that there are runs; the rest is whatever a provider may send between."""
    plain, events = EVENTS[name][:2], EVENTS[name] + _STRANGE
    block = b"".join(
        event
        for times in data.draw(st.lists(st.tuples(st.sampled_from(events), st.integers(0, 3)), max_size=8))
        for event in (times[0], *(plain[:1] * times[1]))
    )
    at_once, one_by_one = _meter(name), _meter(name)
    at_once.delivered(at_once.feed(block))
    for event in split_events(one_by_one.feed(block)):
        one_by_one.measure(event)
    assert _said(at_once) == _said(one_by_one)


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_plain_is_read_in_one_go(name: str) -> None:
    """Also one event by itself; nearly all of a stream would be read slowly, and nobody would notice."""
    one, other, *_ = EVENTS[name]
    assert RUNS[name](one)
    assert RUNS[name](one * 3 + other)


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_not_plain_is_no_run(name: str) -> None:
    """Nor where the last event says nothing: nobody would know where the last text was."""
    one = EVENTS[name][0]
    assert not [event for event in _STRANGE if event.strip() and RUNS[name](one + event)]
    assert not RUNS[name](one + EVENTS[name][2])

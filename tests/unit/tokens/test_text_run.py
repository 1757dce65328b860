"""Events read in one go say what they say one by one, in each format that reads runs."""

from __future__ import annotations

import json
from typing import Any

import msgspec
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
from sentinel.tokens.text_run import alike


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _chat(delta: Any, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **more}
    return b"data: %b\n\n" % _json({"id": "c", "choices": [choice], "usage": None})


def _response(kind: str = "output_text", delta: str = " word", number: int = 4, **more: Any) -> bytes:
    event = {"type": f"response.{kind}.delta", "delta": delta, "sequence_number": number, "output_index": 0, **more}
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _json(event))


def _message(index: int = 0, **delta: Any) -> bytes:
    event = {"type": "content_block_delta", "index": index, "delta": delta}
    return b"event: content_block_delta\ndata: %b\n\n" % _json(event)


_WORD = _chat({"content": " word"})
_ALMOST = [
    _WORD.replace(b'":', b'": '),
    _chat({"content": ' "quoted"'}),
    _chat({"content": ""}),
    _chat({"content": " b", "reasoning_content": " a"}),
    _WORD.replace(b'"id":"c"', b'"id":"d"'),
    *(_WORD.replace(b'"id":"c"', b'"id":"c","x":{"content":"%b"}' % x) for x in (b" word", b" y")),
]
"""As a word, but for what is not its text."""
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
        *_ALMOST,
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
        _message(type="text_delta", text=' "quoted"'),
        _message(type="text_delta", text=" c", thinking=" d"),
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


_DECODER = msgspec.json.Decoder(list[dict[str, Any]])


def _says(text: str, behind: str = "null") -> bytes:
    return b'data: {"id":1,"t":"%b","end":%b}\n\n' % (text.encode(), behind.encode())


@pytest.mark.parametrize("texts", [["a"], ["", "b"], ["a b", "", "ü\\n", "\\u20ac"], [" x"] * 50])
def test_events_that_differ_in_a_text_alone(texts: list[str]) -> None:
    """The first, and all texts."""
    found = alike(b"".join(map(_says, texts)), b'"t":"', _DECODER)
    assert found == ({"id": 1, "t": texts[0], "end": None}, [json.loads(f'"{text}"') for text in texts])


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'data: {"id":1}\n\n', id="no text"),
        pytest.param(_says("a") + _says("b", "true"), id="another end, as long"),
        pytest.param(_says("a", "true") + _says("b"), id="another end in the first"),
        pytest.param(_says("a") + _says("b").replace(b'"id":1', b'"id":2'), id="another beginning, as long"),
        pytest.param(_says("a") + _says("b", "true") + _says("c"), id="another middle"),
        pytest.param(_says("a") + _says('b","t":"c') + _says("d"), id="a text more in an event"),
        pytest.param(_says("a") + _says('b","c') + _says("d"), id="a string more"),
        pytest.param(_says('a","t":"b') * 2, id="two texts in each"),
        pytest.param((b'data: {"id":1}\n\n' + _says("a")) * 2, id="texts in each second event"),
        pytest.param(_says("a") + b": a comment\n\n" + _says("b"), id="a comment"),
        pytest.param(_says("a")[:-1], id="no end"),
        pytest.param(_says("a") + _says("").replace(b'""', b'"'), id="a quote for two"),
        pytest.param(_says("a") + _says("b\nc"), id="a line end"),
        pytest.param(_says("a").replace(b"\n", b"\r\n") * 2, id="other line ends"),
        pytest.param(_says("a") + b"data: [DONE]\n\n", id="the end of the stream"),
        pytest.param(b"event: error\n" + _says("a"), id="an error"),
        pytest.param(b'data: {"t":"\xff"}\n\n', id="no UTF-8"),
    ],
)
def test_all_else_is_not_alike(block: bytes) -> None:
    """It is read in another way."""
    assert alike(block, b'"t":"', _DECODER) is None

"""What is read of responses: every text once, however often it is said, and usage wherever it stands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.tokens.loose import Kind, Reading
from sentinel.tokens.responses_answer import (
    Delta,
    ResponseTexts,
    index_of,
    is_last,
    name_of,
    parse_event,
    read_answer,
    usage_of,
)
from sentinel.tokens.usage import NOTHING, Usage

USAGE = {
    "input_tokens": 21,
    "input_tokens_details": {"cached_tokens": 8},
    "output_tokens": 17,
    "output_tokens_details": {"reasoning_tokens": 6},
    "total_tokens": 38,
}
TOLD = Usage(21, 17, 38, 8, 0, 6)
DEEP = b'{"type":"response.x.delta","delta":' + b'{"a":' * 600 + b"1" + b"}" * 600 + b"}"


def delta(name: str, text: Any = " one", **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{name}.delta", "delta": text, **fields}


def message(*texts: str) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": text} for text in texts]}


def read(*events: dict[str, Any]) -> list[Reading]:
    texts = ResponseTexts()
    readings = [texts.read(parsed) for one in events if (parsed := parse_event(json.dumps(one).encode())) is not None]
    return [reading for reading in readings if reading is not None]


def said(*events: dict[str, Any]) -> str:
    """The texts of these events of one stream."""
    return "".join(text.piece for reading in read(*events) for text in reading.texts)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("output_text", Kind.CONTENT),
        ("refusal", Kind.REFUSAL),
        ("reasoning_text", Kind.REASONING),
        ("reasoning_summary_text", Kind.SUMMARY),
        ("function_call_arguments", Kind.ARGUMENTS),
        ("custom_tool_call_input", Kind.ARGUMENTS),
        ("mcp_call_arguments", Kind.ARGUMENTS),
        ("code_interpreter_call_code", Kind.ARGUMENTS),
        ("audio.transcript", Kind.TRANSCRIPT),
        ("shell_call_command", Kind.OTHER),
        ("a_new_kind", Kind.OTHER),
    ],
)
def test_every_kind_of_delta_is_text(name: str, kind: Kind) -> None:
    """Of its kind and its place; the same text as a whole is nothing new."""
    (reading,) = read(delta(name, output_index=2, content_index=1, summary_index=1))
    ((choice, found, place, piece),) = reading.texts
    assert (choice, found, piece) == (2, kind, " one")
    assert place == (0 if kind is Kind.OTHER else 1)
    whole = {"type": f"response.{name}.done", "text": " one", "output_index": 2, "content_index": 1, "summary_index": 1}
    assert said(delta(name, output_index=2, content_index=1, summary_index=1), whole) == " one"
    assert said(whole) == " one"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.audio.delta", "delta": "AAAA"},
        {"type": "response.image_generation_call.partial_image", "partial_image_b64": "AAAA"},
        {"type": "response.shell_call_output_content.delta", "delta": {"stdout": "a file"}},
        {"type": "response.created", "response": {"id": "resp_1", "instructions": "Be kind.", "output": []}},
        {"type": "response.output_text.annotation.added", "annotation": {"title": "x"}, "annotation_index": 0},
        {"type": "response.output_text.delta", "delta": ""},
        {"type": "response.output_item.done", "item": {"type": "mcp_call", "output": "a tool said"}},
        {"type": "response.output_item.done", "item": {"type": "reasoning", "encrypted_content": "gAAA"}},
    ],
)
def test_what_is_no_generated_text(event: dict[str, Any]) -> None:
    """Sound, pictures, what tools say, what the request said."""
    assert said(event) == ""


def test_what_is_said_three_times_counts_once() -> None:
    """In pieces, as a whole, in its part, in its item, in its response."""
    events: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": 0, "item": message()},
        {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}},
        delta("output_text", " one"),
        delta("output_text", " two"),
        {"type": "response.output_text.done", "text": " one two"},
        {"type": "response.content_part.done", "part": {"type": "output_text", "text": " one two"}},
        {"type": "response.output_item.done", "output_index": 0, "item": message(" one two")},
        {"type": "response.completed", "response": {"status": "completed", "output": [message(" one two")]}},
    ]
    assert said(*events) == " one two"
    # Whichever of them a provider leaves out.
    for skipped in range(len(events)):
        assert len(said(*events[:skipped], *events[skipped + 1 :])) == len(" one two")
    for only in events[4:]:
        assert said(only) == " one two"


def test_what_goes_beyond_the_pieces_is_new() -> None:
    """Also where items are numbered otherwise than they are listed."""
    last = {"type": "response.completed", "response": {"output": [message(" one two")]}}
    assert said(delta("output_text", " one"), last) == " one two"
    assert said(delta("output_text", " one two", output_index=7), last) == " one two"


def test_items_of_every_type() -> None:
    """Names, arguments, code, summaries, and whatever else they say."""
    items: list[dict[str, Any]] = [
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"a":1}', "status": "completed"},
        {"type": "custom_tool_call", "name": "sh", "input": "ls"},
        {"type": "code_interpreter_call", "code": "1+1", "outputs": [{"logs": "2"}], "container_id": "x"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}],
         "content": [{"type": "reasoning_text", "text": "b"}]},
        {"type": "web_search_call", "action": {"type": "search", "query": "rain"}},
        {"type": "message", "content": "plain"},
        {"type": "message", "content": [{"type": "output_audio", "transcript": "heard", "data": "AAAA"}]},
        {"type": "message", "content": [{"type": "text", "text": "x"}, {"type": "refusal", "refusal": "y"}]},
        {"type": "message", "content": ["a string"]},
        {"type": "message", "content": None},
        {"type": "mcp_approval_request", "name": "n", "arguments": "{}", "server_label": "s"},
    ]  # fmt: skip
    texts = [
        "weather",
        '{"a":1}',
        "sh",
        "ls",
        "1+1",
        "a",
        "b",
        "rain",
        "plain",
        "heard",
        "x",
        "y",
        "a string",
        "n",
        "{}",
    ]
    (reading,) = read({"type": "response.completed", "response": {"output": [*items, "no item"]}})
    assert [text.piece for text in reading.texts] == texts


def test_fields_that_nobody_knows_count() -> None:
    """Beside a delta, beside an item, as arguments that are an object."""
    assert said(delta("output_text", " one", a_new_field=" two")) == " one two"
    assert said({"type": "response.output_item.added", "item": message(), "thinking": " two"}) == " two"
    assert said(delta("function_call_arguments", {"a": 1})) == '{"a":1}'
    assert said({"type": "response.new", "words": ["a", {"b": "c"}]}) == "ac"
    assert said({"choices": [{"delta": {"content": "a chat"}}]}) == "a chat"


@pytest.mark.parametrize(
    ("event", "failed", "finished"),
    [
        ({"type": "error", "message": "no"}, True, []),
        ({"type": "response.output_text.delta", "delta": "x", "error": {"code": 1}}, True, []),
        ({"type": "response.failed", "response": {"status": "failed", "error": {"code": "x"}}}, True, []),
        ({"type": "response.failed", "response": {}}, True, []),
        ({"type": "response.completed", "response": {"status": "completed"}}, False, [(0, "completed")]),
        ({"type": "response.incomplete", "response": {
            "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}},
         False, [(0, "max_output_tokens")]),
        ({"type": "response.incomplete", "response": {"status": "incomplete", "incomplete_details": {"reason": 7}}},
         False, [(0, "incomplete")]),
        ({"type": "response.in_progress", "response": {"status": "in_progress"}}, False, []),
        ({"type": "response.completed", "response": {"status": 7}}, False, []),
    ],
)  # fmt: skip
def test_how_it_ends(event: dict[str, Any], failed: bool, finished: list[tuple[int, str]]) -> None:
    """In which an error generates nothing."""
    (reading,) = read(event)
    assert (reading.failed, reading.finished, reading.texts) == (failed, finished, [])


def test_usage_is_in_the_response_or_beside_it() -> None:
    """Merged, larger numbers win."""
    for kind in ("completed", "incomplete", "failed"):
        event = {"type": f"response.{kind}", "response": {"usage": USAGE}}
        assert usage_of(json.dumps(event).encode()) == read(event)[0].usage == TOLD
    assert usage_of(b'{"usage":{"input_tokens":21},"response":{"usage":{"output_tokens":2}}}') == Usage(21, 2)
    assert usage_of(b'{"usage":null,"response":{"usage":"x"}}') == usage_of(b"[1]") == NOTHING


@pytest.mark.parametrize(
    ("data", "last"),
    [
        (b'{"type":"response.completed"}', True),
        (b'{"response":{},"type":"response.incomplete"}', True),
        (b'{"type":"response.failed","x":NaN}', True),
        (b'{"type":"response.created"}', False),
        (b'{"type":7}', False),
        (b'{"type":["response.failed"]}', False),
        (b"[1]", False),
    ],
)
def test_which_event_is_last(data: bytes, last: bool) -> None:
    """By its own type, also where a strict reader would not take it."""
    assert is_last(data) is last


def test_events_that_are_none() -> None:
    """No object, or nested too deeply."""
    assert parse_event(b"[1]") is parse_event(b"x") is None
    assert isinstance(parse_event(b'{"type":"response.x.delta","delta":"a"}'), Delta)
    assert isinstance(parse_event(b'{"type":"response.x.done","delta":"a"}'), dict)
    event = parse_event(DEEP)
    assert event is not None
    assert ResponseTexts().read(event) is None
    assert (name_of("response.output_text.delta"), name_of("x")) == ("output_text", "")
    assert (index_of({"a": 2}, "a"), index_of({"a": "2"}, "a")) == (2, 0)


@pytest.mark.parametrize(
    ("answer", "texts", "usage", "finished", "failed"),
    [
        ({"output": [message("a")], "status": "completed", "usage": USAGE}, [], TOLD, [(0, "completed")], False),
        ({"output": [message("a")], "status": "completed"}, ["a"], NOTHING, [(0, "completed")], False),
        ({"output": [], "status": "completed", "usage": {"output_tokens": 0}}, [], NOTHING, [(0, "completed")], False),
        ({"output": [message("a")], "status": "failed", "error": {"code": "x"}}, ["a"], NOTHING, [], True),
        ({"output": [], "status": "failed", "error": {"code": "x"}, "usage": USAGE}, [], TOLD, [], True),
        ({"output": [], "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "usage": USAGE},
         [], TOLD, [(0, "max_output_tokens")], False),
        ({"error": {"message": "no"}}, [], NOTHING, [], True),
        ({"choices": [{"index": 0, "message": {"content": "a chat"}}]}, ["a chat"], NOTHING, [], False),
    ],
)  # fmt: skip
def test_whole_answers(
    answer: dict[str, Any], texts: list[str], usage: Usage, finished: list[tuple[int, str]], failed: bool
) -> None:
    """Texts only where usage does not tell the output."""
    reading = read_answer(json.dumps(answer).encode())
    assert reading is not None
    assert [text.piece for text in reading.texts] == texts
    assert (reading.usage, reading.finished, reading.failed) == (usage, finished, failed)


def test_whole_answers_that_are_none() -> None:
    """No object."""
    assert read_answer(b"[1]") is read_answer(b"x") is None

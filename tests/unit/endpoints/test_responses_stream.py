"""How a stream of responses is metered, and what Sentinel ends it with.

About: endpoints/responses_stream.py and, with it, endpoints/responses_items.py.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints import responses_items
from sentinel.endpoints.responses_stream import ResponsesMeter, answer, ending, error_event, refusal
from sentinel.error import UpstreamError
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.usage import Usage

MODEL = "gpt-4o-mini"
CREATED = {
    "type": "response.created",
    "response": {"id": "resp_1", "model": "m", "status": "in_progress", "output": []},
}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
ADDED = {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE}
TEXT_PART = {"type": "output_text", "text": "", "annotations": []}
PART = {"type": "response.content_part.added", "item_id": "msg_1", "output_index": 0, "content_index": 0}
PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


def told(*events: dict[str, Any]) -> bytes:
    """Events as they go over the wire, numbered."""
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n".encode()
        for number, event in enumerate(events)
    )


def read(data: bytes) -> list[dict[str, Any]]:
    """The data of events, each named after its type."""
    found = []
    for event in data.decode().removesuffix("\n\n").split("\n\n"):
        name, line = event.split("\n")
        found.append(json.loads(line.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def delta(name: str, text: str, **place: Any) -> dict[str, Any]:
    return {"type": f"response.{name}.delta", "delta": text, **place}


def limited(*events: dict[str, Any]) -> ResponsesMeter:
    """The meter of a stream in which one event more has come that the client does not get."""
    meter = ResponsesMeter(MODEL, NO_SECRET)
    meter.hold_whole()
    meter.delivered(meter.feed(told(*events, {"type": "response.in_progress"})))
    meter.count()
    return meter


def ended(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """What ends a stream after these events, without numbers, which go on from theirs."""
    found = read(ending(limited(*events), Usage(9, 2)))
    numbers = [event.pop("sequence_number") for event in found]
    assert numbers == list(range(len(events), len(events) + len(found)))
    return found


def test_text_that_is_open_is_done() -> None:
    """Part, item and response tell it as far as it came."""
    part = {**PART, "part": TEXT_PART}
    text, part_done, item, last = ended(
        CREATED, ADDED, part, delta("output_text", "é", **PLACE), delta("output_text", "b", **PLACE)
    )
    whole = {**TEXT_PART, "text": "éb"}
    assert text == {"type": "response.output_text.done", **PLACE, "text": "éb", "logprobs": []}
    assert part_done == {"type": "response.content_part.done", **PLACE, "part": whole}
    message = {**MESSAGE, "status": "incomplete", "content": [whole]}
    assert item == {"type": "response.output_item.done", "output_index": 0, "item": message}
    assert last["type"] == "response.incomplete"
    response = last["response"]
    assert (response["id"], response["model"], response["status"]) == ("resp_1", "m", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"] == [message]
    assert [response["usage"][name] for name in ("input_tokens", "output_tokens", "total_tokens")] == [9, 2, 11]


def test_what_is_done_is_not_done_again() -> None:
    """Whole items, texts, parts."""
    done = {**MESSAGE, "status": "completed"}
    item = {"type": "response.output_item.done", "output_index": 0, "item": done}
    assert [event["type"] for event in ended(CREATED, ADDED, item)] == ["response.incomplete"]
    assert ended(CREATED, ADDED, item)[-1]["response"]["output"] == [done]
    part, text = {**PART, "part": TEXT_PART}, {"type": "response.output_text.done", **PLACE, "text": ""}
    part_done = {"type": "response.content_part.done", **PLACE, "part": {**TEXT_PART, "text": "b"}}
    kinds = ["response.content_part.done", "response.output_item.done", "response.incomplete"]
    assert [event["type"] for event in ended(CREATED, ADDED, part, text)] == kinds
    assert [event["type"] for event in ended(CREATED, ADDED, part, text, part_done)] == kinds[1:]


@pytest.mark.parametrize(
    ("kind", "name", "field"),
    [
        ("function_call", "function_call_arguments", "arguments"),
        ("custom_tool_call", "custom_tool_call_input", "input"),
        ("mcp_call", "mcp_call_arguments", "arguments"),
        ("code_interpreter_call", "code_interpreter_call_code", "code"),
    ],
)
def test_calls(kind: str, name: str, field: str) -> None:
    """What they say so far, and once where it has been said as a whole."""
    call = {"id": "c_1", "type": kind, "name": "f", field: "", "status": "in_progress"}
    added, place = (
        {"type": "response.output_item.added", "output_index": 0, "item": call},
        {"output_index": 0, "item_id": "c_1"},
    )
    said, item, _ = ended(CREATED, added, delta(name, "a", **place), delta(name, "b", **place))
    more = {"name": "f"} if kind == "function_call" else {}
    assert said == {"type": f"response.{name}.done", **place, **more, field: "ab"}
    assert item["item"] == {**call, "status": "incomplete", field: "ab"}
    whole = {"type": f"response.{name}.done", **place, field: "a"}
    assert len(ended(CREATED, added, delta(name, "a", **place), whole)) == 2


def test_thoughts() -> None:
    """Summaries and texts; a delta with a field that nobody knows is one, too."""
    thought = {"id": "rs_1", "type": "reasoning", "summary": []}
    place = {"item_id": "rs_1", "output_index": 0}
    at = {**place, "summary_index": 0}
    started: list[dict[str, Any]] = [
        CREATED,
        {"type": "response.output_item.added", "output_index": 0, "item": thought},
        {"type": "response.reasoning_summary_part.added", **at, "part": {"type": "summary_text", "text": ""}},
        delta("reasoning_summary_text", "a", **at),
    ]
    text, part, item, _ = ended(*started)
    assert text == {"type": "response.reasoning_summary_text.done", **at, "text": "a"}
    assert part["part"] == {"type": "summary_text", "text": "a"}
    assert item["item"]["summary"] == [part["part"]]
    done = [
        {"type": "response.reasoning_summary_text.done", **at, "text": "a"},
        {"type": "response.reasoning_summary_part.done", **at, "part": {"type": "summary_text", "text": "a"}},
    ]
    assert len(ended(*started, *done)) == 2
    spoken = {**place, "content_index": 0}
    part_of = {"type": "response.content_part.added", **spoken, "part": {"type": "reasoning_text", "text": ""}}
    _, _, item, _ = ended(*started[:2], part_of, delta("reasoning_text", "b", **spoken, a_new_field=1))
    assert item["item"]["content"] == [{"type": "reasoning_text", "text": "b"}]


def test_parts_without_text_and_items_without_parts() -> None:
    """They are told as they are."""
    picture = {"type": "output_audio", "data": "AAAA"}
    part, item, _ = ended(CREATED, ADDED, {**PART, "part": picture})
    assert part["part"] == item["item"]["content"][0] == picture
    search = {"id": "ws_1", "type": "web_search_call", "status": "in_progress"}
    item, last = ended(CREATED, {"type": "response.output_item.added", "output_index": 3, "item": search})
    assert last["response"]["output"] == [item["item"]] == [{**search, "status": "incomplete"}]


def test_events_that_make_no_sense_change_nothing() -> None:
    """Texts of no item, items that are none, numbers that are none."""
    meter = ResponsesMeter(MODEL, NO_SECRET)
    meter.hold_whole()
    odd: list[Any] = [
        delta("output_text", "a", output_index=9),
        delta("a_new_kind", "a"),
        {"type": "response.output_item.added", "item": "x"},
        {"type": 7, "sequence_number": "x"},
        {"type": "response.in_progress"},
    ]
    meter.delivered(
        b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in [*odd, *odd]) + b"data: [1]\n\n"
    )
    meter.count()
    (last,) = read(ending(meter, Usage(9, 2)))
    assert last["response"]["output"] == []
    # Without a first event nothing is known of the response.
    assert (last["response"]["object"], last["response"]["model"], last["sequence_number"]) == ("response", MODEL, 0)


def test_no_more_is_kept_than_one_answer_may_have() -> None:
    """Beyond that nothing is repeated; where no limit can end a stream nothing is kept at all."""
    kept = limited(CREATED, ADDED)
    assert 0 < kept.kept_bytes < 1000
    huge = {"id": "ig_1", "type": "image_generation_call", "result": "A" * (responses_items.MOST_KEPT_BYTES + 1)}
    item = {"type": "response.output_item.done", "output_index": 1, "item": huge}
    last = ended(CREATED, ADDED, item)
    assert [event["type"] for event in last] == ["response.incomplete"]
    assert last[0]["response"]["output"] == []
    meter = ResponsesMeter(MODEL, NO_SECRET)
    meter.delivered(meter.feed(told(CREATED, ADDED)))
    meter.count()
    assert meter.kept_bytes == 0


def test_an_error_of_ours_goes_on_in_numbers() -> None:
    """As the reference has it, and as the SDK for Python looks for it; the last event has been delivered."""
    error = UpstreamError("broke off", param="x")
    meter = ResponsesMeter(MODEL, NO_SECRET)
    meter.delivered(meter.feed(told(CREATED, ADDED)))
    (event,) = read(error_event(error, meter))
    inner = event.pop("error")
    assert event == {
        "type": "error",
        "code": "upstream_error",
        "message": "broke off",
        "param": "x",
        "sequence_number": 2,
    }
    assert (inner["type"], inner["message"]) == ("server_error", "broke off")
    assert read(error_event(error, None))[0]["sequence_number"] == 0


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"no such model","code":"model_not_found"}}', "no such model", "model_not_found"),
        (b'{"error":"overloaded"}', "overloaded", None),
        (b"overloaded", "overloaded", None),
        (b"", "The model provider refused the request.", None),
    ],
)
def test_a_refusal_is_an_event(body: bytes, message: str, code: str | None) -> None:
    """The provider's own error, or what it said."""
    (event,) = read(refusal(422, body))
    assert (event["message"], event["code"], event["error"]["message"]) == (message, code, message)


def test_a_whole_answer_is_a_stream() -> None:
    """With all that accumulates: items, parts, texts, calls."""
    content = [{**TEXT_PART, "text": "a"}, {"type": "refusal", "refusal": "b"}, {"type": "output_audio", "data": ""}]
    message = {**MESSAGE, "status": "completed", "content": content}
    call = {"id": "fc_1", "type": "function_call", "name": "f", "arguments": "{}", "status": "completed"}
    sound: dict[str, Any] = {"id": "mc_1", "type": "mcp_call", "arguments": None}
    response = {
        "id": "resp_1",
        "status": "completed",
        "output": [message, call, sound, "odd"],
        "usage": {"input_tokens": 9},
    }
    events = read(answer(b"\n" + json.dumps(response).encode()))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"] == {**response, "status": "in_progress", "output": [], "usage": None}
    assert events[-1] == {"type": "response.completed", "response": response, "sequence_number": len(events) - 1}
    said = {event["type"]: event["delta"] for event in events if event["type"].endswith(".delta")}
    assert said == {
        "response.output_text.delta": "a",
        "response.refusal.delta": "b",
        "response.function_call_arguments.delta": "{}",
    }
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == response["output"][:3]  # type: ignore[index]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [
        {**message, "status": "in_progress", "content": []},
        {**call, "status": "in_progress", "arguments": ""},
        sound,
    ]
    # Read again, it says what it says.
    meter = ResponsesMeter(MODEL, NO_SECRET)
    meter.delivered(meter.feed(answer(json.dumps(response).encode())))
    assert meter.end() == 4


@pytest.mark.parametrize(("status", "last"), [("failed", "failed"), ("incomplete", "incomplete"), (None, "completed")])
def test_it_ends_by_its_status(status: str | None, last: str) -> None:
    """Whatever that is."""
    events = read(answer(json.dumps({"status": status, "output": []}).encode()))
    assert events[-1]["type"] == f"response.{last}"


def test_whole_answers_in_another_shape() -> None:
    """An error is one; what nobody knows is passed on as an event."""
    (event,) = read(answer(b'{"error":{"message":"no"}}'))
    assert (event["type"], event["message"]) == ("error", "no")
    assert answer(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert answer(b"a\nb") == b"data: a\ndata: b\n\n"


def test_a_limit_is_told_apart_from_an_end() -> None:
    """The meter needs a last event, and knows it; what follows is given out with it."""
    usage = {"input_tokens": 21, "output_tokens": 17, "total_tokens": 38}
    last = {"type": "response.completed", "response": {"status": "completed", "usage": usage}}
    meter = ResponsesMeter(MODEL, NO_SECRET)
    assert meter.lacks_end()
    data = b": a comment\n\n" + told(CREATED, last)
    meter.delivered(meter.feed(data + b"data: [DONE]\n\nda"))
    assert meter.done == told(CREATED, last)[len(told(CREATED)) :]
    assert (meter.trail, meter.unfinished, meter.may_trail, meter.lacks_end()) == (
        b"data: [DONE]\n\n",
        b"da",
        True,
        False,
    )
    meter.end()
    meter.end_with(b"data: [DONE]\n\n")
    assert meter.done.endswith(b"data: [DONE]\n\n")
    assert (meter.usage.prompt_tokens, meter.usage.output_tokens, meter.finish_reason) == (21, 17, "completed")
    assert meter.usage_is_final
    assert read(ending(meter, Usage(21, 17)))[-1]["response"]["id"] == "resp_1"


def test_done_ends_it_as_well() -> None:
    """Some send it instead of a last event; nothing follows."""
    meter = ResponsesMeter(MODEL, NO_SECRET)
    meter.feed(told(CREATED) + b"data: [DONE]\n\n")
    assert (meter.done, meter.may_trail, meter.lacks_end()) == (b"data: [DONE]\n\n", False, False)


@pytest.mark.parametrize(
    ("rest", "given", "broke_off"),
    [
        (b"event: response.out", b"", False),
        (b'event: response.in_progress\ndata: {"ty', b"", True),
        (b"event: response.in_progress\ndata: {}", b"event: response.in_progress\ndata: {}\n\n", False),
        (b'{"output":[]}', b'{"output":[]}', False),
    ],
)
def test_an_event_that_has_not_ended_is_dropped_or_closed(rest: bytes, given: bytes, broke_off: bool) -> None:
    """An error of ours follows it, which must be an event of its own; a whole answer is no event."""
    meter = ResponsesMeter(MODEL, NO_SECRET)
    assert meter.feed(rest) == b""
    assert (meter.rest(), meter.broke_off) == (given, broke_off)

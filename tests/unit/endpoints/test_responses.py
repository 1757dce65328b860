"""What is particular to responses: what is read and refused of a request, and what a provider is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.endpoints.endpoint import UNCHANGED
from sentinel.endpoints.responses import LEAST_MAX, RESPONSES
from sentinel.error import AppError, InternalError, InvalidJson, InvalidType, MissingParameter
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import Usage

COUNTER = TokenCounter()
MODEL = "gpt-4o-mini"


def body(given: Any = "hi", **fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "input": given, **fields}).encode()


@pytest.mark.parametrize(
    ("sent", "kind", "param"),
    [
        (b'{"model":"m"}', MissingParameter, "input"),
        (b'{"model":"m","input":null,"prompt":null,"conversation":null}', MissingParameter, "input"),
        (b'{"input":"hi"}', MissingParameter, "model"),
        (body(background="yes"), InvalidType, "background"),
        (body(7), InvalidType, "input"),
        (body(["hi"]), InvalidType, "input[0]"),
        (body([{"role": "user"}]), MissingParameter, "input[0].content"),
        (body([{"type": "message", "content": "a"}]), MissingParameter, "input[0].role"),
        (body([{"role": "user", "content": [{"text": "a"}]}]), MissingParameter, "input[0].content[0].type"),
        (body([{"role": "user", "content": ["a"]}]), InvalidType, "input[0].content[0]"),
        (body([{"type": "function_call", "name": 7}]), InvalidType, "input[0].name"),
        (
            body([{"type": "function_call_output", "output": [{"type": "input_text", "text": 7}]}]),
            InvalidType,
            "input[0].output[0].text",
        ),
        (body(max_output_tokens="9"), InvalidType, "max_output_tokens"),
        (body(max_output_tokens=-1), InvalidType, "max_output_tokens"),
        (body(tools=[{"type": "function"}]), MissingParameter, "tools[0].name"),
        (body(text={"format": {"type": 7}}), InvalidType, "text.format.type"),
        (b'{"model":"m","input":[{"role":"user","role":"system","content":"a"}]}', InvalidJson, "input[0].role"),
        (b'{"model":"m","input":"a","text":{"format":{"type":"text","type":"x"}}}', InvalidJson, "text.format.type"),
        (b'{"model":"m","input":"\\ud800"}', InvalidJson, None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(sent: bytes, kind: type[AppError], param: str | None) -> None:
    """With its place."""
    with pytest.raises(kind) as raised:
        RESPONSES.read(sent)
    assert raised.value.param == param


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "role", "text", "x"]), inner),
    max_leaves=6,
)
KINDS = st.sampled_from(
    [
        *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("reasoning", "computer_call_output", "image_generation_call", "item_reference"),
        *("input_text", "input_image", "input_file", "x"),
    ]
)
PARTS = st.fixed_dictionaries(
    {"type": KINDS}, optional=dict.fromkeys(["text", "refusal", "image_url", "input_audio", "filename"], VALUES)
)
ITEMS = st.fixed_dictionaries(
    {"type": KINDS | st.none()},
    optional={
        **dict.fromkeys(["role", "id", "name", "arguments", "input", "result", "summary", "action"], VALUES),
        **dict.fromkeys(["content", "output"], VALUES | st.lists(PARTS, max_size=3)),
    },
)


@given(
    st.fixed_dictionaries(
        {"input": VALUES | st.lists(ITEMS | VALUES, max_size=4)},
        optional={
            **dict.fromkeys(["instructions", "stream", "background", "prompt", "conversation", "text"], VALUES),
            **dict.fromkeys(["max_output_tokens", "tool_choice", "previous_response_id"], VALUES),
            "tools": VALUES
            | st.lists(st.fixed_dictionaries({"type": st.just("function"), "name": VALUES}), max_size=2),
        },
    )
)
@settings(deadline=None, max_examples=400)
def test_whatever_is_sent_is_counted_or_refused(fields: dict[str, Any]) -> None:
    """With a 400 that names a field; nothing else is raised."""
    counted, refused = 0, None
    try:
        counted = RESPONSES.count(RESPONSES.read(json.dumps({"model": MODEL, **fields}).encode()), COUNTER)
    except AppError as error:
        refused = error
    if refused is None:
        assert counted >= 3
    else:
        assert refused.status == 400
        assert (refused.param or "").split("[")[0].split(".")[0] in fields


@pytest.mark.parametrize(
    "fields", [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"prompt": {"id": "pmpt_1"}}]
)
def test_what_goes_on_from_elsewhere_needs_no_input(fields: dict[str, Any]) -> None:
    """Who has it is the provider's affair."""
    assert RESPONSES.read(json.dumps({"model": MODEL, **fields}).encode()).model == MODEL


def test_the_prompt_is_forgotten_once_it_is_counted() -> None:
    """What is decided later stays."""
    request = RESPONSES.read(body("hello world", stream=True, max_output_tokens=50))
    assert RESPONSES.count(request, COUNTER) == 9
    RESPONSES.forget_prompt(request)
    assert RESPONSES.count(request, COUNTER) == 3
    assert (request.stream, request.client_max) == (True, 50)


@pytest.mark.parametrize(
    ("model", "stream", "in_sight", "hides"),
    [("gpt-4o", True, True, False), ("gpt-4o", False, False, False), ("o3", True, False, True)],
)
def test_what_bounds_the_output(model: str, stream: bool, in_sight: bool, hides: bool) -> None:
    """What is thought unseen is no output that could be watched."""
    found = RESPONSES.bound(RESPONSES.read(body(model=model, stream=stream, max_output_tokens=None)))
    assert (found.choices, found.client_max, found.grows_in_sight, found.hides_output) == (1, None, in_sight, hides)
    assert found.least_max == LEAST_MAX


def test_a_maximum_is_added_or_lowered_and_nothing_else() -> None:
    """The client's own bytes stay."""
    for sent, told in ((body(store=False), 40), (body(max_output_tokens=500), 40), (body(max_output_tokens=20), 20)):
        request = RESPONSES.read(sent)
        bound = RESPONSES.bound(request)
        assert RESPONSES.changes(request, bound, None) is UNCHANGED
        assert RESPONSES.changed(sent, request, UNCHANGED) == sent
        changes = RESPONSES.changes(request, bound, 40)
        assert changes.adds_max == (bound.client_max is None)
        assert json.loads(RESPONSES.changed(sent, request, changes)) == {**json.loads(sent), "max_output_tokens": told}


def test_it_has_streams_and_whole_answers_and_errors_of_its_own() -> None:
    """Each method leads to the file that decides it."""
    request = RESPONSES.read(body(stream=True))
    meter = RESPONSES.meter(request, NO_SECRET)
    assert b"response.incomplete" in RESPONSES.ending(request, meter, Usage(9, 2))
    assert b"event: error" in RESPONSES.render_event(InternalError("no"), meter, "req_1")
    assert b"event: error" in RESPONSES.refusal_as_stream(400, b'{"error":{"message":"no"}}')
    assert b"response.completed" in RESPONSES.as_stream(b'{"output":[],"status":"completed"}')
    reading = RESPONSES.read_answer(b'{"output":[],"status":"completed","usage":{"input_tokens":9,"output_tokens":2}}')
    assert reading is not None
    assert reading.usage.output_tokens == 2


@pytest.mark.parametrize(
    ("told", "ids"),
    [
        (b'{"id":"resp_1","output":[{"id":"msg_1"},{"type":"x"},7,{"id":8}]}', ("resp_1", "msg_1")),
        (b'event: x\ndata: {"type":"response.completed","response":{"id":"resp_1","store":true}}\n\n', ("resp_1",)),
        (b'{"id":"resp_1","store":false,"output":[{"id":"msg_1"}]}', ()),
        (b'{"id":"resp_1","store":false,"output":[{"id":"ci_1","container_id":"cntr_1"}]}', ("cntr_1",)),
        (b'{"id":"resp_1","output":{"id":"msg_1"}}', ("resp_1",)),
        (b'data: {"response":"resp_1"}\n\n', ()),
        (b"data: [DONE]\n\n", ()),
        (b"", ()),
    ],
)
def test_what_an_answer_creates(told: bytes, ids: tuple[str, ...]) -> None:
    """The response and its items, where they are kept."""
    assert RESPONSES.created(told) == ids


def test_a_response_in_the_background_is_a_job() -> None:
    """It goes on after its answer; a stream of it is not ended by us for being watched."""
    request = RESPONSES.read(body(background=True, stream=True))
    assert RESPONSES.job_kind(request) == "responses"
    assert not RESPONSES.bound(request).grows_in_sight
    assert RESPONSES.job_kind(RESPONSES.read(body(stream=True))) == ""

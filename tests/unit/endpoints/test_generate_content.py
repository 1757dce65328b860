"""Gemini's requests: read, bounded, and changed as little as possible."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from sentinel.endpoints.endpoint import UNCHANGED, Changes
from sentinel.endpoints.generate_content import GenerateContentEndpoint, StreamGenerateContentEndpoint
from sentinel.error import AppError, InvalidJson, InvalidType, MissingParameter
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.gemini_request import GenerateBody
from sentinel.tokens.usage import Usage

TURN = {"role": "user", "parts": [{"text": "Say hello"}]}


def endpoint(model: str = "gemini-2.0-flash") -> GenerateContentEndpoint:
    return GenerateContentEndpoint("v1beta", f"models/{model}")


def body(**fields: Any) -> bytes:
    return json.dumps({"contents": [TURN], **fields}).encode()


@pytest.mark.parametrize(
    ("config", "client_max", "choices"),
    [
        ({}, None, 1),
        ({"generationConfig": None}, None, 1),
        ({"generationConfig": {"maxOutputTokens": 9, "candidateCount": 2}}, 9, 2),
        ({"generation_config": {"max_output_tokens": 9, "candidate_count": 2}}, 9, 2),
        ({"generationConfig": {"maxOutputTokens": 0, "candidateCount": 0}}, None, 1),
        ({"generationConfig": {"maxOutputTokens": None, "max_output_tokens": 8}}, 8, 1),
    ],
)
def test_what_it_says_of_its_output(config: dict[str, Any], client_max: int | None, choices: int) -> None:
    """Under both names of each field; nought is as good as nothing."""
    request = endpoint().read(body(**config))
    bound = endpoint().bound(request)
    assert (bound.client_max, bound.choices, bound.shown_choices) == (client_max, choices, choices)
    assert (request.model, request.stream, bound.grows_in_sight) == ("gemini-2.0-flash", False, False)


@pytest.mark.parametrize(
    ("model", "thinking", "hides"),
    [
        ("gemini-2.0-flash", None, False),
        ("gemini-2.5-flash", None, True),
        ("gemini-3-pro-preview", {"thinkingLevel": "low"}, True),
        ("gemini-2.5-flash", {"thinkingBudget": 0}, False),
        ("gemini-2.5-flash", {"thinking_budget": -1}, True),
        ("gemini-2.5-flash-lite", None, False),
        ("gemini-2.5-flash-lite", {"thinkingBudget": 512}, True),
    ],
)
def test_models_that_think(model: str, thinking: Any, hides: bool) -> None:
    """Their thoughts are billed and hardly shown, so that their streams cannot be watched growing."""
    stream = StreamGenerateContentEndpoint("v1beta", f"models/{model}", b"alt=sse")
    bound = stream.bound(stream.read(body(generationConfig={"thinkingConfig": thinking})))
    assert (bound.hides_output, bound.grows_in_sight) == (hides, not hides)


@pytest.mark.parametrize(
    ("given", "error", "param"),
    [
        (b"{", InvalidJson, None),
        (b"[]", InvalidType, None),
        (b"{}", MissingParameter, "contents"),
        (body(contents=[]), MissingParameter, "contents"),
        (body(contents="hi"), InvalidType, "contents"),
        (body(contents=[{"parts": 5}]), InvalidType, "contents[0].parts"),
        (body(contents=[{"parts": [{"text": 5}]}]), InvalidType, "contents[0]"),
        (b'{"contents":[{"parts":[{"text":"\\ud800"}]}]}', InvalidJson, None),
        (body(generationConfig={"maxOutputTokens": "9"}), InvalidType, "generationConfig.maxOutputTokens"),
        (body(generationConfig={"maxOutputTokens": -1}), InvalidType, "generationConfig.maxOutputTokens"),
        (body(generationConfig={"candidateCount": 129}), InvalidType, "generationConfig.candidateCount"),
        (body(generationConfig={"maxOutputTokens": 9, "max_output_tokens": 8}), InvalidType, "generationConfig"),
        (body(generationConfig={}, generation_config={}), InvalidType, None),
        (body(model="models/other"), InvalidType, "model"),
        (b'{"contents":[],"contents":[]}', InvalidJson, "contents"),
        (b'{"contents":[{"parts":[{"text":"a","text":"b"}]}]}', InvalidJson, "contents[0].parts[0].text"),
        (
            b'{"contents":[{"parts":[{"inlineData":{"data":"a","data":"b"}}]}]}',
            InvalidJson,
            "contents[0].parts[0].inlineData.data",
        ),
        (
            b'{"contents":{"parts":{"text":"a"}},"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":9}}',
            InvalidJson,
            "generationConfig.maxOutputTokens",
        ),
    ],
)
def test_what_is_wrong_is_named(given: bytes, error: type[AppError], param: str | None) -> None:
    """Before anything is asked or spent; equal keys, and both names of one field, could be read in two ways."""
    with pytest.raises(error) as raised:
        endpoint().read(given)
    assert raised.value.param == param


@pytest.mark.parametrize("name", ["gemini-2.0-flash", "models/gemini-2.0-flash", ""])
def test_a_body_may_name_the_model_of_the_path(name: str) -> None:
    """And no other, whose price or permission nobody has looked at."""
    assert endpoint().read(body(model=name)).model == "gemini-2.0-flash"


def test_a_form_that_cannot_be_read_is_refused() -> None:
    """Nobody could tell what such an answer costs."""
    for kind in (GenerateContentEndpoint, StreamGenerateContentEndpoint):
        with pytest.raises(InvalidType, match="'alt'"):
            kind("v1beta", "models/x", b"alt=proto").read(body())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, {"generationConfig": {"maxOutputTokens": 7}}),
        ({"generationConfig": None}, {"generationConfig": {"maxOutputTokens": 7}}),
        ({"generation_config": None}, {"generation_config": {"maxOutputTokens": 7}}),
        (
            {"generation_config": {"max_output_tokens": 9, "top_k": 1}},
            {"generation_config": {"max_output_tokens": 7, "top_k": 1}},
        ),
        (
            {"generationConfig": None, "generation_config": {"maxOutputTokens": None}},
            {"generationConfig": None, "generation_config": {"maxOutputTokens": 7}},
        ),
        ({"generationConfig": {"maxOutputTokens": 0}}, {"generationConfig": {"maxOutputTokens": 7}}),
    ],
)
def test_a_maximum_is_told_under_the_clients_name(config: dict[str, Any], told: dict[str, Any]) -> None:
    """All else of the body stays, and no field comes twice."""
    given = body(**config)
    request = endpoint().read(given)
    sent = endpoint().changed(given, request, Changes(output_max=7))
    assert json.loads(sent) == {"contents": [TURN], **told}
    assert json.dumps(TURN, separators=(",", ":")) in sent.decode().replace(" ", "").replace("Sayhello", "Say hello")


def test_what_need_not_change_stays_as_it_is() -> None:
    """Byte for byte."""
    given = b' {"contents" : [{"parts":[{"text":"a"}]}], "generationConfig":{"maxOutputTokens": 5}}'
    request = endpoint().read(given)
    bound = endpoint().bound(request)
    assert endpoint().changes(request, bound, None) is UNCHANGED
    assert endpoint().changes(request, bound, 3) == Changes(output_max=3)
    for changes in (UNCHANGED, Changes(output_max=5), Changes(output_max=9)):
        assert endpoint().changed(given, request, changes) is given


def test_its_input_is_counted_and_forgotten() -> None:
    """What is decided later stays."""
    request = endpoint().read(body(generationConfig={"maxOutputTokens": 9}))
    assert endpoint().count(request, TokenCounter()) > 2
    endpoint().forget_prompt(request)
    assert (request.body, request.client_max) == (GenerateBody(), 9)
    assert request.body.tools == Raw()


def test_answers_and_refusals_become_events() -> None:
    """For a client that was told to expect a stream."""
    assert endpoint().as_stream(b'{"candidates":[]}') == b'data: {"candidates":[]}\n\n'
    assert endpoint().refusal_as_stream(400, b'{"error":{"code":400,"message":"x","status":"y"}}').startswith(b"data: ")
    reading = endpoint().read_answer(b'{"candidates":[{"content":{"parts":[{"text":" a"}]}}]}')
    assert reading is not None
    assert reading.is_generated


def test_a_stream_is_metered_and_ended() -> None:
    """In this format, for as many candidates as were asked for."""
    stream = StreamGenerateContentEndpoint("v1", "models/gpt-4o", b"alt=sse")
    request = stream.read(body(generationConfig={"candidateCount": 2}))
    meter = stream.meter(request, NO_SECRET)
    meter.delivered(meter.feed(b'data: {"candidates":[{"content":{"parts":[{"text":" one"}]}}]}\n\n'))
    assert meter.count() == 1
    assert stream.ending(request, meter, Usage(9, 1)).count(b"MAX_TOKENS") == 2

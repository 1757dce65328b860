"""The models that a request names, wherever in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.client_secrets import CLIENT_SECRETS, SESSIONS, TRANSCRIPTION_SESSIONS
from sentinel.endpoints.count_tokens import COUNT_TOKENS
from sentinel.endpoints.endpoint import Endpoint
from sentinel.endpoints.form import read_form
from sentinel.endpoints.generate_content import GenerateContentEndpoint
from sentinel.endpoints.images import IMAGE_EDITS, IMAGE_GENERATIONS, IMAGE_VARIATIONS
from sentinel.endpoints.moderations import MODERATIONS
from sentinel.endpoints.named_models import (
    is_named,
    models_in,
    models_in_lines,
    models_in_pairs,
    models_in_text,
    models_of_request,
)
from sentinel.endpoints.responses import RESPONSES
from sentinel.error import InvalidJson
from tests.support.surface import form

NAMED: list[tuple[Any, dict[str, str]]] = [
    ({}, {}),
    ([], {}),
    ({"model": "a"}, {"a": "model"}),
    ({"model": None}, {}),
    ({"model": 5}, {"5": "model"}),
    ({"Model": "a", "MODEL": "b"}, {"a": "Model", "b": "MODEL"}),
    ({"model": "a", "models": ["b", "c"]}, {"a": "model", "b": "models", "c": "models"}),
    ({"model": "a", "fallbacks": [{"model": "d"}]}, {"a": "model", "d": "fallbacks[0].model"}),
    ({"tools": [{"type": "image_generation", "model": "b"}]}, {"b": "tools[0].model"}),
    ({"audio": {"input": {"transcription": {"model": "t"}}}}, {"t": "audio.input.transcription.model"}),
    ({"requests": [{"params": {"model": "a", "messages": [{"model": "b"}]}}]}, {"a": "requests[0].params.model"}),
    ({"data_source": {"model": "a", "source": {"content": [{"item": {"model": "b"}}]}}}, {"a": "data_source.model"}),
    ({"metadata": {"model": "x"}, "input": [{"model": "x"}]}, {}),
    ({"tools": [{"function": {"parameters": {"model": {"model": "x"}}}}]}, {}),
    ({"prompt": {"id": "p", "variables": {"model": "x"}}}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "named"), NAMED, ids=str)
def test_of_a_body(body: Any, named: dict[str, str]) -> None:
    """Each with the place where it stands; what is said to a model, and what applications define, names none."""
    told = json.dumps(body).encode()
    assert models_in(told) == named
    if isinstance(body, dict):
        assert models_of_request(told) == named


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"m\\u006fdel":"a","model":"b"}',
        b'{"x":{"model":"a","model":"b"}}',
        '{"model\u017f":["a","b"]}'.encode(),
        b'{"model\\u017f":["a","b"]}',
    ],
)
def test_of_odd_spellings(body: bytes) -> None:
    """Nobody knows which of two a provider takes, nor how it reads a letter."""
    assert set(models_in(body)) == {"a", "b"}


def test_of_odd_spellings_in_what_a_request_has() -> None:
    """The same below the top, where equal keys are not refused."""
    body = b'{"model":"a","tools":[{"m\\u006fdel":"b","model":"c"}],"X":{"Model":"d"}}'
    assert set(models_of_request(body)) == {"a", "b", "c", "d"}


def test_what_is_said_is_not_looked_at() -> None:
    """However it is nested; what no reader could read is refused."""
    assert models_of_request(b'{"model":"a","messages":[[{"model":"b"}]]}') == {"a": "model"}
    with pytest.raises(InvalidJson):
        models_of_request(b'{"model":"a","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@pytest.mark.parametrize("body", [b'{"model":', b'{"x":' + b'[{"model":' * 20_000, b'"model" x'])
def test_what_cannot_be_read(body: bytes) -> None:
    """What may name a model and cannot be read is refused."""
    with pytest.raises(InvalidJson):
        models_in(body)


def test_of_a_text_that_may_be_json() -> None:
    """What is none names none; what is nested too deeply is refused."""
    assert models_in_text(b"[a model walks]") == {}
    assert models_in_text(b'{"x":{"model":"a"}}') == {"a": "x.model"}
    with pytest.raises(InvalidJson):
        models_in_text(b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_of_lines() -> None:
    """Of each that is not blank; "" where one names none."""
    lines = b'{"body":{"model":"a"}}\n\n  \r\n{"body":{"model":"b","input":[{"model":"x"}]}}\n'
    assert models_in_lines(lines) == {"a": "input_file_id", "b": "input_file_id"}
    assert models_in_lines(lines + b'{"body":{}}') == {**models_in_lines(lines), "": "input_file_id"}
    with pytest.raises(InvalidJson):
        models_in_lines(b'{"model"')


def test_of_pairs() -> None:
    """A form or a query, parted by either sign."""
    assert models_in_pairs(b"model=a&session[model]=c&metadata[model]=d") == {"a": "model", "c": "session[model]"}
    assert {"b", "c"} <= models_in_pairs(b"x=1;model=b;Model=c").keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("model", True), ("Model", True), ("svg[model]", True), ("models[]", True), ("a.model", True), ("", False),
     ("metadata[model]", False), ("remodel", False), ("file", False)],
)  # fmt: skip
def test_of_a_field_of_a_form(name: str, expected: bool) -> None:
    """Whole words, in any case, unless it is an application's own."""
    assert is_named(name) is expected


def named_by(endpoint: Endpoint[Any], **body: Any) -> dict[str, str]:
    told = json.dumps(body).encode()
    return dict(endpoint.named_models(endpoint.read(told), told))


SAID = {"messages": [{"role": "user", "content": "hi"}]}


def test_of_formats() -> None:
    """Beside what a body names: a default that we know, and "" where the provider would take one of its own."""
    assert named_by(CHAT, model="a", models=["b"], **SAID) == {"a": "model", "b": "models"}
    assert named_by(RESPONSES, model="a", input="hi", tools=[{"type": "x", "model": "b"}]).keys() == {"a", "b"}
    assert named_by(COUNT_TOKENS, model="a", **SAID) == {"a": "model"}
    assert named_by(MODERATIONS, input="hi") == {"omni-moderation-latest": "model"}
    assert named_by(IMAGE_GENERATIONS, model="a", prompt="x", svg={"model": "b"}) == {"a": "model", "b": "svg.model"}
    gemini = GenerateContentEndpoint("v1beta", "models/gemini-x")
    assert named_by(gemini, model="models/gemini-x", contents=[{"parts": [{"text": "x"}]}]) == {"gemini-x": "model"}


def test_of_forms() -> None:
    """By the fields that are decided on."""
    body, kind = form([("prompt", "x"), ("model", "a"), ("svg[model]", "b")], "image")
    request, _ = IMAGE_EDITS.read_typed(body, kind.encode())
    assert IMAGE_EDITS.named_models(request, b"") == {"a": "model", "b": "svg.model"}
    body, kind = form([], "image")
    assert read_form(body, kind.encode(), ()).texts == []
    request, _ = IMAGE_VARIATIONS.read_typed(body, kind.encode())
    assert IMAGE_VARIATIONS.named_models(request, b"") == {"dall-e-2": "model"}


TRANSCRIPTION = {"audio": {"input": {"transcription": {"model": "t"}}}}


@pytest.mark.parametrize(
    ("endpoint", "body", "named"),
    [
        (CLIENT_SECRETS, {}, {""}),
        (CLIENT_SECRETS, {"session": {"model": "a"}}, {"a"}),
        (CLIENT_SECRETS, {"session": {"model": "a"}, "model": "b"}, {"a", "b"}),
        (CLIENT_SECRETS, {"session": TRANSCRIPTION}, {"", "t"}),
        (CLIENT_SECRETS, {"session": {"type": "transcription", **TRANSCRIPTION}}, {"t"}),
        (CLIENT_SECRETS, {"session": {"type": "transcription"}}, {""}),
        (SESSIONS, {"input_audio_transcription": {"model": "t"}}, {"", "t"}),
        (TRANSCRIPTION_SESSIONS, {"input_audio_transcription": {"model": "t"}}, {"t"}),
        (TRANSCRIPTION_SESSIONS, {}, {""}),
    ],
)
def test_of_keys_for_sessions(endpoint: Endpoint[Any], body: dict[str, Any], named: set[str]) -> None:
    """A session that only transcribes has the model of its transcription alone."""
    assert named_by(endpoint, **body).keys() == named

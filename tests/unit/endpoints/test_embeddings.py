"""What is particular to embeddings: input alone, no output, no stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.embeddings import EMBEDDINGS
from sentinel.endpoints.endpoint import UNCHANGED
from sentinel.error import InvalidType, MissingParameter
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.request import ChatRequest
from sentinel.tokens.usage import NOTHING

COUNTER = TokenCounter()
MODEL = "text-embedding-3-small"
VECTOR = [{"object": "embedding", "index": 0, "embedding": "AAAAAAAA"}]


def body(given: Any, **fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "input": given, **fields}).encode()


@pytest.mark.parametrize(
    ("given", "tokens"),
    [("hello world", 2), (["hello world", "hello"], 3), ([15339, 1917], 2), ([[15339], [1917, 1917]], 3), ([], 0)],
)
def test_texts_and_token_ids_are_counted(given: Any, tokens: int) -> None:
    """One by one; then they are forgotten."""
    request = EMBEDDINGS.read(body(given))
    assert EMBEDDINGS.count(request, COUNTER) == tokens
    EMBEDDINGS.forget_prompt(request)
    assert request.input is None


@pytest.mark.parametrize("sent", [b'{"model":"m"}', b'{"model":"m","input":null}'])
def test_an_input_is_needed(sent: bytes) -> None:
    """The error names it."""
    with pytest.raises(MissingParameter) as raised:
        EMBEDDINGS.read(sent)
    assert raised.value.param == "input"


@pytest.mark.parametrize("given", [7, {"text": "a"}, ["a", 1], [[1], "a"], [[1.5]], [["a"]]])
def test_what_is_no_text_is_refused(given: Any) -> None:
    """With the place where it stands."""
    with pytest.raises(InvalidType) as raised:
        EMBEDDINGS.read(body(given))
    assert (raised.value.param or "").startswith("input")


def test_nothing_is_reserved_for_output_and_nothing_is_changed() -> None:
    """Also where somebody asks for a stream: there is none."""
    sent = body("hi", stream=True)
    request = EMBEDDINGS.read(sent)
    bound = EMBEDDINGS.bound(request)
    assert not request.stream
    assert (bound.choices, bound.client_max) == (0, 0)
    changes = EMBEDDINGS.changes(request, bound, 0)
    assert changes is UNCHANGED
    assert EMBEDDINGS.changed(sent, request, changes) is sent


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"usage": {"prompt_tokens": 8, "total_tokens": 8}}, 8),
        ({"usage": {"total_tokens": 8}}, 8),
        ({"usage": None}, 0),
        ({}, 0),
    ],
)
def test_an_answer_has_input_alone(usage: dict[str, Any], told: int) -> None:
    """Without usage it was generated all the same, so that our own count of the input is charged."""
    reading = EMBEDDINGS.read_answer(json.dumps({"object": "list", "data": VECTOR, **usage}).encode())
    assert reading is not None
    assert (reading.usage.prompt_tokens, reading.usage.output_tokens) == (told, 0)
    assert reading.is_generated


def test_an_error_with_status_200_costs_nothing() -> None:
    """And what is no JSON is no answer."""
    reading = EMBEDDINGS.read_answer(b'{"error":{"message":"overloaded"}}')
    assert reading is not None
    assert not reading.is_generated
    assert EMBEDDINGS.read_answer(b"<html>") is None


def test_there_is_no_stream() -> None:
    """Whoever asks for a part of one has made a mistake."""
    request, meter = EMBEDDINGS.read(body("hi")), CHAT.meter(ChatRequest("gpt-4o", []), NO_SECRET)
    for asked in (
        lambda: EMBEDDINGS.meter(request, NO_SECRET),
        lambda: EMBEDDINGS.ending(request, meter, NOTHING),
        lambda: EMBEDDINGS.as_stream(b"{}"),
        lambda: EMBEDDINGS.refusal_as_stream(400, b"{}"),
    ):
        with pytest.raises(NotImplementedError):
            asked()

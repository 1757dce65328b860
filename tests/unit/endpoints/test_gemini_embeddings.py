"""Gemini's embeddings: input alone, one vector or many."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.endpoint import NO_OUTPUT
from sentinel.endpoints.gemini_embeddings import BatchEmbedContentsEndpoint, EmbedContentEndpoint
from sentinel.error import AppError, InvalidJson, InvalidType, MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import Usage

ONE = EmbedContentEndpoint("v1beta", "models/gpt-4o")
MANY = BatchEmbedContentsEndpoint("v1beta", "models/gpt-4o")
CONTENT = {"parts": [{"text": "Say hello"}]}


def test_one_and_many() -> None:
    """All texts are counted, a title, too."""
    request = ONE.read(json.dumps({"content": CONTENT, "title": "Hello"}).encode())
    assert (ONE.count(request, TokenCounter()), ONE.bound(request)) == (10, NO_OUTPUT)
    each = {"model": "models/gpt-4o", "content": CONTENT}
    request = MANY.read(json.dumps({"requests": [each, each]}).encode())
    assert MANY.count(request, TokenCounter()) == 18
    assert MANY.count(MANY.read(json.dumps({"requests": each}).encode()), TokenCounter()) == 9
    MANY.forget_prompt(request)
    assert request.bodies == []


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({}, MissingParameter, "content"),
        ({"requests": []}, MissingParameter, "content"),
        ({"requests": [{}]}, MissingParameter, "content"),
        ({"requests": [{"model": "models/x", "content": CONTENT}]}, InvalidType, "requests[0].model"),
        ({"model": "x", "requests": [{"content": CONTENT}]}, InvalidType, "model"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], error: type[AppError], param: str) -> None:
    """Each must have a content, and be for the model of the path."""
    with pytest.raises(error) as raised:
        MANY.read(json.dumps(fields).encode())
    assert raised.value.param == param


def test_equal_keys_are_refused() -> None:
    """In each."""
    with pytest.raises(InvalidJson):
        MANY.read(b'{"requests":[{"content":{"parts":[{"text":"a","text":"b"}]}}]}')


@pytest.mark.parametrize(
    ("body", "told", "generated"),
    [
        (b'{"embedding":{"values":[0.1]}}', Usage(), True),
        (b'{"embeddings":[{}],"usageMetadata":{"promptTokenCount":4}}', Usage(4), True),
        (b'{"error":{}}', Usage(), False),
        (b"{}", Usage(), False),
    ],
)
def test_answers(body: bytes, told: Usage, generated: bool) -> None:
    """Vectors are what was paid for; usage is told by some."""
    reading = ONE.read_answer(body)
    assert reading is not None
    assert (reading.usage, reading.is_generated) == (told, generated)
    assert ONE.read_answer(b"[") is None

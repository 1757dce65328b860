"""Gemini's count of tokens: free, and answered by ourselves where the provider does not know it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.endpoint import NO_OUTPUT
from sentinel.endpoints.gemini_count import ContentCountEndpoint
from sentinel.error import InvalidType, MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.gemini_request import CountBody

COUNT = ContentCountEndpoint("v1beta", "models/gpt-4o")
CONTENTS: list[Any] = [{"parts": [{"text": "Say hello"}]}]


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"contents": CONTENTS}, 9),
        ({"generateContentRequest": {"model": "models/gpt-4o", "contents": CONTENTS}}, 12),
        ({"generate_content_request": {"contents": CONTENTS, "systemInstruction": {"parts": {"text": "Hi"}}}}, 17),
    ],
)
def test_contents_or_a_whole_request(fields: dict[str, Any], tokens: int) -> None:
    """Both are counted."""
    request = COUNT.read(json.dumps(fields).encode())
    assert COUNT.count(request, TokenCounter()) == tokens
    assert (COUNT.is_free, COUNT.bound(request), bool(request.stream)) == (True, NO_OUTPUT, False)
    COUNT.forget_prompt(request)
    assert request.body == CountBody()


@pytest.mark.parametrize("fields", [{}, {"contents": []}, {"generateContentRequest": {}}])
def test_something_must_be_counted(fields: dict[str, Any]) -> None:
    """As Google requires it."""
    with pytest.raises(MissingParameter):
        COUNT.read(json.dumps(fields).encode())


def test_of_the_model_of_the_path() -> None:
    """And of no other."""
    with pytest.raises(InvalidType) as wrong:
        COUNT.read(json.dumps({"generateContentRequest": {"model": "models/x", "contents": CONTENTS}}).encode())
    assert wrong.value.param == "generateContentRequest.model"


def test_our_own_answer() -> None:
    """As Google's."""
    assert COUNT.own_answer(7) == b'{"totalTokens":7}'


def test_what_is_free_is_not_read() -> None:
    """Whatever it says."""
    with pytest.raises(NotImplementedError):
        COUNT.read_answer(b"{}")

"""What is read of answers in Gemini's format: texts of every kind, usage, and why each candidate ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.tokens.gemini_answer import read_embedded, read_event, read_generated, read_usage, read_whole
from sentinel.tokens.loose import Kind, Reading
from sentinel.tokens.usage import NOTHING, Usage

METADATA = {
    "promptTokenCount": 30,
    "cachedContentTokenCount": 20,
    "candidatesTokenCount": 7,
    "thoughtsTokenCount": 10,
    "toolUsePromptTokenCount": 5,
    "totalTokenCount": 52,
}


def read(*candidates: Any, **fields: Any) -> Reading:
    reading = read_generated(json.dumps({"candidates": list(candidates), **fields}).encode())
    assert reading is not None
    return reading


def candidate(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"content": {"parts": list(parts), "role": "model"}, **fields}


@pytest.mark.parametrize(
    ("part", "texts"),
    [
        ({"text": " a"}, [(Kind.CONTENT, " a")]),
        ({"text": " a", "thought": True, "thoughtSignature": "long"}, [(Kind.REASONING, " a")]),
        ({"functionCall": {"id": "x", "name": "f", "args": {"a": 1}}}, [(Kind.NAME, "f"), (Kind.ARGUMENTS, '{"a":1}')]),
        ({"function_call": {"name": "f", "partialArgs": [{"jsonPath": "$.a", "stringValue": "b"}]}}, None),
        ({"executableCode": {"language": "PYTHON", "code": "1 + 1"}}, [(Kind.OTHER, "1 + 1")]),
        ({"codeExecutionResult": {"outcome": "OK", "output": "2"}}, []),
        ({"inlineData": {"mimeType": "image/png", "data": "AAAA"}}, []),
        ({"ofTomorrow": {"words": " a b"}}, [(Kind.OTHER, " a b")]),
        ({"ofTomorrow": [" a"]}, [(Kind.OTHER, " a")]),
        (" a", [(Kind.CONTENT, " a")]),
        (7, []),
    ],
)
def test_texts_of_parts(part: Any, texts: list[tuple[Kind, str]] | None) -> None:
    """All that was generated, whatever the field; nothing of what tools have said."""
    found = read(candidate(part)).texts
    if texts is None:
        assert "".join(text.piece for text in found).startswith("f")
        assert any("b" in text.piece for text in found)
    else:
        assert [(text.kind, text.piece) for text in found] == texts


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ({"candidates": {"content": {"parts": {"text": " a"}}}}, [" a"]),
        ({"candidates": [{"content": " a"}]}, [" a"]),
        ({"candidates": [{"content": None}, None, 5]}, []),
        ({"candidates": [{"output": " a"}]}, [" a"]),
        ({"candidates": None}, []),
        ({}, []),
        ({"choices": [{"message": {"content": " a"}}]}, [" a"]),
        ({"text": " a"}, [" a"]),
        ({"usageMetadata": METADATA, "modelVersion": "m", "responseId": "r"}, []),
    ],
)
def test_odd_shapes(answer: dict[str, Any], texts: list[str]) -> None:
    """One for a list, or text where parts should be."""
    reading = read_generated(json.dumps(answer).encode())
    assert reading is not None
    assert [text.piece for text in reading.texts] == texts


def test_candidates_are_choices() -> None:
    """By their index, or their place."""
    reading = read(candidate({"text": " a"}, index=1), candidate({"text": " b"}, index="x", finish_reason="STOP"))
    assert [(text.choice, text.piece) for text in reading.texts] == [(1, " a"), (1, " b")]
    assert reading.finished == [(1, "STOP")]


@pytest.mark.parametrize(
    ("fields", "finished"),
    [
        ({"finishReason": "MAX_TOKENS"}, [(0, "MAX_TOKENS")]),
        ({"finishReason": None}, []),
        ({"finishReason": ""}, []),
        ({"finishReason": "FINISH_REASON_UNSPECIFIED"}, []),
        ({"finishReason": 5}, []),
    ],
)
def test_why_a_candidate_ended(fields: dict[str, Any], finished: list[tuple[int, str]]) -> None:
    """Where it says so."""
    assert read(candidate(**fields)).finished == finished


@pytest.mark.parametrize("name", ["promptFeedback", "prompt_feedback"])
def test_a_prompt_that_is_blocked(name: str) -> None:
    """There is no candidate, and none will come."""
    assert read(**{name: {"blockReason": "SAFETY"}}).finished == [(0, "SAFETY")]
    assert read(**{name: {"safetyRatings": []}}).finished == []


@pytest.mark.parametrize(
    ("metadata", "usage", "output"),
    [
        (METADATA, Usage(35, 17, 52, 20, 0, 10), 17),
        ({"prompt_token_count": 30, "candidates_token_count": 7, "total_token_count": 47}, Usage(30, 7, 47), 17),
        ({"promptTokenCount": 30, "totalTokenCount": 30}, Usage(30, 0, 30), 0),
        ({"promptTokenCount": "x", "candidatesTokenCount": -1, "thoughtsTokenCount": None}, Usage(), 0),
        ([], NOTHING, 0),
        (None, NOTHING, 0),
    ],
)
def test_usage(metadata: Any, usage: Usage, output: int) -> None:
    """The prompt is with what a cache had, the candidates without thoughts, what tools brought is input."""
    reading = read(usageMetadata=metadata)
    assert (reading.usage, reading.usage.output_tokens) == (usage, output)
    assert read_usage(json.dumps({"usage_metadata": metadata}).encode()) == usage
    assert read_usage(b"[]") == NOTHING


def test_usage_grows_all_along() -> None:
    """Larger numbers win, also where they come in pieces."""
    first = read_usage(json.dumps({"usageMetadata": {"promptTokenCount": 30, "totalTokenCount": 30}}).encode())
    assert first.merged(read(usageMetadata=METADATA).usage) == Usage(35, 17, 52, 20, 0, 10)


def test_several_answers_in_one() -> None:
    """An array that came whole is all of them."""
    parts = [candidate({"text": " a"}), candidate({"text": " b"}, finishReason="STOP")]
    events = [{"candidates": [part], "usageMetadata": {"promptTokenCount": 9}} for part in parts]
    reading = read_generated(json.dumps(events).encode())
    assert reading is not None
    assert ([text.piece for text in reading.texts], reading.usage.prompt_tokens) == ([" a", " b"], 9)
    assert reading.finished == [(0, "STOP")]
    assert not reading.failed


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"{", b"[5]"])
def test_what_is_no_answer(data: bytes) -> None:
    """Is charged by its bytes, elsewhere."""
    assert read_generated(data) is None
    assert read_whole(data) is None


def test_what_is_nested_too_deeply() -> None:
    """Nobody reads it."""
    deep = b'{"a":' * 700 + b"1" + b"}" * 700
    assert read_generated(b'{"candidates":[{"content":{"parts":[{"a":%b}]}}]}' % deep) is None
    assert read_generated(b"[" * 100_000) is None


def test_an_error_in_an_answer() -> None:
    """It has failed, and its texts are counted all the same."""
    assert read(error={"code": 503}).failed
    failed = read_whole(json.dumps({"error": {"code": 1}, "usageMetadata": METADATA}).encode())
    assert failed is not None
    assert failed.failed


def test_a_whole_answer_is_not_counted_where_usage_tells() -> None:
    """Its texts are left out; that it was generated is known."""
    answer = {"candidates": [candidate({"text": " a"}, finishReason="STOP")], "usageMetadata": METADATA}
    reading = read_whole(json.dumps(answer).encode())
    assert reading is not None
    assert (reading.texts, reading.finished, reading.is_generated) == ([], [(0, "STOP")], True)
    counted = read_whole(json.dumps({"candidates": answer["candidates"]}).encode())
    assert counted is not None
    assert counted.texts


def test_vectors() -> None:
    """That there are any is enough."""
    reading = read_embedded(b'{"embedding":{"values":[1]},"usageMetadata":{"promptTokenCount":4,"totalTokenCount":9}}')
    assert reading is not None
    assert (reading.usage, reading.is_generated) == (Usage(4), True)


@pytest.mark.parametrize(
    "event",
    [
        {"candidates": [candidate({"text": " a"}, {"text": ""}, index=2)], "usageMetadata": METADATA},
        {"candidates": [candidate({"text": " a"})], "usageMetadata": {"promptTokensDetails": []}, "responseId": "r"},
        {"candidates": [candidate({"text": " a"}, finishReason="STOP")], "usageMetadata": METADATA},
        {"candidates": [candidate({"text": " a", "thought": True})], "usageMetadata": METADATA},
        {"candidates": [candidate({"text": " a"})], "usageMetadata": {"promptTokenCount": -1}},
        {"candidates": [candidate({"text": " a"})], "error": {}},
        {"candidates": [candidate({"text": " a"}), candidate({"text": " b"}, index=1)], "usageMetadata": {}},
    ],
)
def test_what_is_read_fast_is_read_alike(event: dict[str, Any]) -> None:
    """And what has any other shape as well."""
    data = json.dumps(event).encode()
    assert read_event(data) == read_generated(data)
    assert read_event(b"{") is None

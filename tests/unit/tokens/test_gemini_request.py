"""What is decoded of a request in Gemini's format: under either name, one or many."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sentinel.tokens.gemini_request import (
    BatchBody,
    Content,
    CountBody,
    GenerateBody,
    GenerationConfig,
    ThinkingConfig,
    listed,
    text_of,
)

TEXT = {"text": "a"}


def read(kind: type[Any], **fields: Any) -> Any:
    return msgspec.json.decode(json.dumps(fields).encode(), type=kind)


@pytest.mark.parametrize(
    ("contents", "parts"),
    [
        (None, []),
        ({"parts": TEXT}, [1]),
        ([{"parts": [TEXT, {}]}, {"role": "model"}, {"parts": None}], [2, 0, 0]),
    ],
)
def test_one_may_stand_for_a_list(contents: Any, parts: list[int]) -> None:
    """Of turns, and of their parts."""
    body = read(GenerateBody, contents=contents)
    assert [len(content.listed) for content in listed(body.contents)] == parts


def test_texts_are_texts() -> None:
    """Null is nothing."""
    content = read(Content, parts=[{"text": "a\u00e9"}, {"text": None}])
    assert [text_of(part["text"]) for part in content.listed] == ["aé", ""]
    with pytest.raises(msgspec.ValidationError, match="`text`"):
        read(Content, parts=[{"text": ["a"]}])


FIELDS: list[tuple[type[Any], str, str, Any]] = [
    (ThinkingConfig, "thinkingBudget", "thinking_budget", 5),
    (GenerationConfig, "maxOutputTokens", "max_output_tokens", 5),
    (GenerationConfig, "candidateCount", "candidate_count", 5),
    (GenerationConfig, "thinkingConfig", "thinking_config", {}),
    (GenerationConfig, "responseSchema", "response_schema", {}),
    (GenerationConfig, "responseJsonSchema", "response_json_schema", {}),
    (GenerateBody, "systemInstruction", "system_instruction", {}),
    (GenerateBody, "toolConfig", "tool_config", {}),
    (GenerateBody, "generationConfig", "generation_config", {}),
    (CountBody, "generateContentRequest", "generate_content_request", {}),
]


@pytest.mark.parametrize(("kind", "camel", "snake", "value"), FIELDS)
def test_each_field_has_two_names(kind: type[Any], camel: str, snake: str, value: Any) -> None:
    """Both mean the same, and only one may be there."""
    assert read(kind, **{camel: value}) == read(kind, **{snake: value}) == read(kind, **{camel: None, snake: value})
    assert getattr(read(kind, **{snake: value}), snake) not in (None, msgspec.Raw())
    with pytest.raises(msgspec.ValidationError, match=snake):
        read(kind, **{camel: value, snake: value})


def test_a_config_that_is_not_there_says_nothing() -> None:
    """As an empty one."""
    assert read(GenerateBody).config == GenerationConfig() == read(GenerateBody, generationConfig={}).config


def test_batches() -> None:
    """One may stand for a list here, too."""
    values: list[Any] = [None, {}, [{}, {}]]
    assert [len(read(BatchBody, requests=value).listed) for value in values] == [0, 1, 2]

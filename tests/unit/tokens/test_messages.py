"""The estimate of a request in Anthropic's format: nothing that it carries is free."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from sentinel.endpoints.count_tokens import COUNT_TOKENS
from sentinel.tokens.bpe import count_for, load
from sentinel.tokens.encoding import use
from sentinel.tokens.messages import message_tokens

CLAUDE = "claude-sonnet-5-5"
WORDS = "many words of a long text " * 50


def tokens(content: Any, model: str = CLAUDE, **fields: Any) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
    return message_tokens(COUNT_TOKENS.read(json.dumps(body).encode()), model)


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)
    return base64.b64encode(head + bytes(20)).decode()


def image(width: int, height: int) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": png(width, height)}
    return {"type": "image", "source": source}


def test_text_and_what_is_around_it() -> None:
    """As OpenAI's models count, served in this format by gateways; input_ratio.py has what Claude makes of it."""
    assert tokens(WORDS) == tokens(WORDS, "gpt-4o") == count_for("gpt-4o")(WORDS) + 7
    assert tokens([{"type": "text", "text": WORDS}]) == tokens(WORDS)


def test_text_in_a_vocabulary_of_its_own() -> None:
    """A gateway may serve these models in this format, too."""
    load({"qwen"})
    try:
        assert tokens(WORDS, "qwen3-8b") == count_for("qwen3-8b")(WORDS) + 7
    finally:
        use(())


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": WORDS},
        {"type": "thinking", "thinking": WORDS, "signature": "s"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": WORDS}},
        {"type": "tool_use", "id": "t", "name": WORDS, "input": {}},
        {"type": "tool_result", "tool_use_id": "t", "content": WORDS},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": WORDS}]},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_result", "content": [{"text": WORDS}]}]},
        {"type": "code_execution_tool_result", "content": {"stdout": WORDS}},
        {"type": "web_search_tool_result", "content": [{"title": WORDS}]},
        {"type": "search_result", "source": WORDS, "title": "t", "content": [{"type": "text", "text": "a"}]},
        {"type": "document", "title": WORDS, "source": {"type": "text", "data": "a"}},
        {"type": "document", "context": WORDS, "source": {"type": "text", "data": "a"}},
        {"type": "document", "source": {"type": "text", "data": WORDS}},
        {"type": "document", "source": {"type": "content", "content": WORDS}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": WORDS}]}},
        {"type": "of_tomorrow", "content": {"a": [WORDS]}},
    ],
)
def test_text_counts_wherever_it_is(block: dict[str, Any]) -> None:
    """In every block there is, and in those that nobody knows yet."""
    assert 1.0 <= tokens([block]) / tokens(WORDS) < 1.3


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        ({"system": WORDS}, 0),
        ({"system": [{"type": "text", "text": WORDS}]}, 0),
        ({"tools": [{"name": "f", "description": WORDS, "input_schema": {}}]}, 346),
        ({"output_format": {"type": "json_schema", "schema": {"title": WORDS}}}, 0),
        ({"output_config": {"format": {"schema": {"title": WORDS}}}}, 0),
    ],
)
def test_what_stands_beside_the_messages_counts(fields: dict[str, Any], least: int) -> None:
    """System prompt, tools with the prompt that explains them, and schemas."""
    beside = tokens("hi", **fields) - tokens("hi")
    assert least + tokens(WORDS) - 10 <= beside <= least + 1.2 * tokens(WORDS)


def test_tools_of_the_provider_have_their_price() -> None:
    """They have no schema here."""
    assert tokens("hi", tools=[{"type": "computer_20250124", "name": "computer"}]) - tokens("hi") > 346 + 735


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (image(1000, 750), 1000),
        (image(200, 100), 27),
        (image(9000, 9000), 1600),
        ({"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}}, 1600),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "no image"}}, 1600),
        ({"type": "document", "source": {"type": "url", "url": "https://a.test/b.pdf"}}, 3000),
        ({"type": "document", "source": {"type": "base64", "data": "A" * 320_000}}, 20_000),
        ({"type": "redacted_thinking", "data": "A" * 4000}, 1000),
        ({"type": "tool_result", "content": [image(1000, 750)]}, 1000),
    ],
)
def test_images_and_documents(block: dict[str, Any], expected: int) -> None:
    """By their size, or the most there can be where it is not known."""
    assert tokens([block]) - tokens([]) == pytest.approx(expected, abs=2)


def test_blocks_within_blocks_have_an_end() -> None:
    """What is nested more deeply counts as the JSON that it is, within a moment."""
    nested: Any = WORDS
    for _ in range(200):
        nested = [{"type": "tool_result", "content": nested}]
    assert tokens(nested) > tokens(WORDS)

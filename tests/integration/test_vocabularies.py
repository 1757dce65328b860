"""VOCABULARIES: what Sentinel counts by itself is counted in the model's own vocabulary, and told as an estimate.

About: `vocabulary_packages.py`, `tokens/vocabulary.py`, `tokens/bpe.py`, `app.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sentinel.tokens.bpe import count_in
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import post

MODEL = "Qwen/Qwen3-32B"
SAID = "नमस्ते, आप कैसे हैं? 1234567890"


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": SAID}], **fields}


def answer(**fields: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], **fields}
    return json.dumps(body).encode()


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as scripted:
        yield scripted


def tokens_of(sentinel: SentinelProcess, token: str) -> tuple[int, int, str]:
    """Input, output, and where the figures are from."""
    before = len([line for line in sentinel.log() if line.get("event") == "request"])
    assert post(sentinel, token, chat()).status == 200
    line = sentinel.ended(before + 1)[-1]
    return line["input_tokens"], line["output_tokens"], line["tokens_from"]


def test_what_is_charged_without_usage(stack: Stack, provider: ScriptedProvider) -> None:
    """The tokens of the text, and of the family's frames around it; what the provider tells corrects the next."""
    _, token = stack.user("own-vocabulary@corp.test")
    sentinel = stack.sentinel(OPENAI_API_URL=provider.url, VOCABULARIES="qwen")
    provider.says(answer())
    text = count_in("qwen")(SAID)
    assert text > 2 * count_in("o200k_base")(SAID)
    assert tokens_of(sentinel, token) == (8 + text, text, "estimate")
    provider.says(
        answer(usage={"prompt_tokens": 2 * (8 + text), "completion_tokens": 1, "total_tokens": 17 + 2 * text})
    )
    assert tokens_of(sentinel, token) == (2 * (8 + text), 1, "provider")
    provider.says(answer())
    assert tokens_of(sentinel, token) == (2 * (8 + text), text, "estimate")
    sentinel.stop()


def test_without_it_all_is_as_before(stack: Stack, provider: ScriptedProvider) -> None:
    """An estimate in OpenAI's vocabulary, with OpenAI's frames."""
    _, token = stack.user("other-vocabulary@corp.test")
    sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
    provider.says(answer())
    text = count_in("o200k_base")(SAID)
    assert tokens_of(sentinel, token) == (7 + text, text, "estimate")
    sentinel.stop()


def test_a_vocabulary_that_is_not_installed_is_told_at_the_start(stack: Stack) -> None:
    """With the package that has it."""
    with pytest.raises(AssertionError, match="VOCABULARIES: 'mistral' needs the package mistral-common"):
        stack.sentinel(VOCABULARIES="mistral", start=False).start(ready=False)

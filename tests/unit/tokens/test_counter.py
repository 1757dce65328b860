from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.tokens.answer import read_event
from sentinel.tokens.counter import _ONE_TOKEN_ROLES, FILE_TOKENS, LARGE_PROMPT_BYTES, TokenCounter, is_large
from sentinel.tokens.encoding import encoding_of
from sentinel.tokens.request import ChatRequest
from tests.unit.tokens.oracle import true_count
from tests.unit.tokens.texts import texts

COUNTER = TokenCounter()
MODELS = ["gpt-4", "gpt-4o", "gpt-oss-20b"]


def count_chat(messages: list[dict[str, Any]], model: str = "gpt-4o") -> int:
    return COUNTER.count_chat(msgspec.convert({"model": model, "messages": messages}, ChatRequest), model)


def count_user(content: Any, model: str = "gpt-4o") -> int:
    """Tokens of the content alone: the frame of a lone user message is 3 + 3 + 1."""
    return count_chat([{"role": "user", "content": content}], model) - 7


def cookbook(messages: list[dict[str, str]], encoding: str) -> int:
    """`num_tokens_from_messages` of OpenAI's cookbook, written anew over the oracle."""
    frames = sum(3 + ("name" in message) for message in messages)
    return 3 + frames + sum(true_count(value, encoding) for message in messages for value in message.values())


plain = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "developer", "martian"]), "content": texts},
    optional={"name": st.text(min_size=1, max_size=20)},
)


@pytest.mark.parametrize("model", MODELS)
@given(messages=st.lists(plain, max_size=5))
def test_messages_follow_the_cookbook(model: str, messages: list[dict[str, str]]) -> None:
    """Any list of text messages has the tokens of OpenAI's published function."""
    assert count_chat(messages, model) == cookbook(messages, encoding_of(model))


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [([], 3), ([{"role": "user", "content": ""}], 7), ([{"role": "user", "content": None}], 7), ([{"role": "user"}], 7),
     ([{"role": "user", "content": "hello world"}], 9), ([{"role": "system", "content": "hello:"}], 9)],
)  # fmt: skip
def test_small_requests(messages: list[dict[str, Any]], tokens: int) -> None:
    """Priming is 3 and an empty message 4 (zion-contract.md, 5.1)."""
    assert count_chat(messages, "gpt-4") == tokens


def test_roles_counted_without_the_tokenizer_are_one_token() -> None:
    """The shortcut for usual roles is true in every encoding."""
    for model in MODELS:
        assert {true_count(role, encoding_of(model)) for role in _ONE_TOKEN_ROLES} == {1}


def test_text_parts_are_texts_of_their_own() -> None:
    """Two parts are not joined; a refusal part counts like text."""
    parts = [
        {"type": "text", "text": "hel"},
        {"type": "text", "text": "lo"},
        {"type": "refusal", "refusal": "I can not"},
    ]
    assert count_user(parts) == sum(true_count(text, "o200k_base") for text in ("hel", "lo", "I can not"))


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, 765),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}, 85),
        ({"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"}, 85),
        ({"type": "image_url", "image_url": {}}, 765),
        ({"type": "input_audio", "input_audio": {"data": "A" * 64_000, "format": "mp3"}}, 30),
        ({"type": "file", "file": {"file_id": "file-1"}}, FILE_TOKENS),
        ({"type": "unheard-of"}, 0),
        ({"type": "image_url", "text": "hello"}, 1),
    ],
)
def test_other_parts(part: dict[str, Any], tokens: int) -> None:
    """Images, sound and files have their price, whatever the part calls itself."""
    assert count_user([part]) == tokens


def test_special_tokens_in_a_prompt_are_text() -> None:
    """A client who writes an end-of-text marker wrote seven tokens of text."""
    assert COUNTER.count_text("<|endoftext|>", "gpt-4o") == true_count("<|endoftext|>", "o200k_base") == 7


def test_a_refusal_in_the_history_is_counted() -> None:
    """An assistant's earlier refusal is read again by the model."""
    assert count_chat([{"role": "assistant", "content": None, "refusal": "I can not"}]) == 7 + 3


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("hello world", 2),
        (["hello world", "hello"], 3),
        ([1, 2, 3], 3),
        ([[1, 2], [3]], 3),
        ([], 0),
        ("", 0),
        (None, 1),
    ],
)
def test_prompts(prompt: Any, tokens: int) -> None:
    """Each form of prompt is counted, several prompts one by one."""
    assert COUNTER.count_prompt(prompt, "davinci-002") == tokens
    assert COUNTER.count_prompt(prompt, "davinci-002", suffix="hello") == tokens + 1


def test_whole_answers() -> None:
    """All choices count, with refusals and tool calls, also where the provider gives each the index 0."""
    call = {"function": {"name": "f", "arguments": "{}"}}
    choices = [
        {"message": {"content": "hello"}},
        {"message": {"content": " world"}},
        {"message": {"tool_calls": [call, call]}},
    ]
    for answer, tokens in ({"choices": choices}, 2 + 4), ({"choices": [{"text": "hello world"}]}, 2), ({}, 0):
        reading = read_event(msgspec.json.encode(answer))
        assert reading is not None
        assert COUNTER.count_generated(reading.texts, "gpt-4o") == tokens


def test_large_bodies_go_to_a_thread() -> None:
    """The threshold itself is still small."""
    assert not is_large(LARGE_PROMPT_BYTES)
    assert is_large(LARGE_PROMPT_BYTES + 1)

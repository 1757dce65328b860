"""What is said, and that it has as many tokens as it claims."""

from __future__ import annotations

import json
from typing import Any

import pytest
import toktok

from sentinel.dev.directive import NONE, Directive
from sentinel.dev.reply import answer_in_json, call_tool, chat_prompt_tokens, encoding_of, prompts_tokens, say

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
                "days": {"type": "integer"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "precise": {"type": "boolean"},
            },
        },
    },
}


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@pytest.mark.parametrize("choice", [0, 1, 7])
@pytest.mark.parametrize(
    "directive",
    [
        NONE,
        Directive(refusal=True),
        Directive(text_emoji=True),
        *(Directive(tokens=n) for n in (0, 1, 24, 200, 3000)),
        *(Directive(tokens=n, text_emoji=True) for n in (1, 50)),
    ],
)
def test_every_piece_is_one_token(model: str, choice: int, directive: Directive) -> None:
    """The whole text has as many tokens as the reply has pieces, in both encodings."""
    reply = say(directive, choice, None)
    encoding = "cl100k_base" if model == "gpt-4" else "o200k_base"
    assert toktok.batch_count([reply.text], encoding) == [reply.tokens]
    assert reply.tokens == len(reply.pieces)
    if directive.tokens is not None:
        assert reply.tokens == directive.tokens


def test_choices_differ() -> None:
    """Two choices of one request say different things."""
    assert say(Directive(tokens=5), 0, None).text != say(Directive(tokens=5), 1, None).text


def test_the_limit_cuts() -> None:
    """A reply that is too long ends with length, one that just fits with stop."""
    assert (say(Directive(tokens=5), 0, 4).tokens, say(Directive(tokens=5), 0, 4).finish_reason) == (4, "length")
    assert say(Directive(tokens=5), 0, 5).finish_reason == "stop"


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
def test_tool_calls_fit_the_schema_and_are_counted(model: str) -> None:
    """The arguments are JSON of the asked shape; tokens are those of the name and of the arguments."""
    encoding = encoding_of(model)
    reply = call_tool(encoding, TOOL, None)
    assert json.loads(reply.text) == {
        "city": "Paris",
        "unit": "celsius",
        "days": 7,
        "tags": ["Paris"],
        "precise": True,
    }
    assert reply.tokens == encoding.count("get_weather") + encoding.count(reply.text)
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
def test_an_answer_in_json_has_as_many_tokens_as_it_claims(model: str) -> None:
    """What fits the schema, or an object with the usual text; characters beyond ASCII are escaped."""
    encoding = encoding_of(model)
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["größer als 日本 🙂"]}}}
    reply = answer_in_json(encoding, form, NONE, None)
    assert json.loads(reply.text) == "größer als 日本 🙂"
    assert (reply.tokens, len(reply.pieces), reply.finish_reason) == (encoding.count(reply.text),) * 2 + ("stop",)
    cut = answer_in_json(encoding, form, NONE, 4)
    assert (cut.tokens, cut.finish_reason) == (4, "length")
    said = json.loads(answer_in_json(encoding, {"type": "json_object"}, Directive(tokens=5), None).text)
    assert said == {"reply": say(Directive(tokens=5), 0, None).text}


def test_a_tool_call_is_cut_by_the_limit() -> None:
    """Arguments that do not fit are cut like a text."""
    reply = call_tool(encoding_of("gpt-4o"), TOOL, 5)
    assert (reply.tokens, reply.finish_reason) == (5, "length")


def test_prompt_formula() -> None:
    """The published formula: 3 per message, 1 per name, 3 at the end."""
    encoding = encoding_of("gpt-4")
    assert chat_prompt_tokens(encoding, [{"role": "user", "content": "hello world"}]) == 7 + 2
    named = [
        {"role": "user", "name": "ana", "content": [{"type": "text", "text": "hello world"}, {"type": "image_url"}]}
    ]
    assert chat_prompt_tokens(encoding, named) == 7 + 2 + 1 + encoding.count("ana")
    assert chat_prompt_tokens(encoding, [{"role": "assistant", "content": None}]) == 7


@pytest.mark.parametrize(
    ("prompt", "tokens"), [("hello world", 2), (["hello world", "hello"], 3), ([1, 2, 3], 3), ([[1], [2]], 2)]
)
def test_legacy_prompts(prompt: Any, tokens: int) -> None:
    """All four forms of a prompt are counted."""
    assert prompts_tokens(encoding_of("davinci-002"), prompt) == tokens


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *((model, "cl100k_base") for model in ("gpt-4", "gpt-4-turbo", "gpt-3.5-turbo")),
        *((model, "o200k_base") for model in ("gpt-4o-mini", "gpt-4.1", "o3", "gpt-5")),
    ],
)
def test_encodings(model: str, name: str) -> None:
    """Old models count with cl100k, the others with o200k."""
    text = "Übergrößenträger 日本語"
    assert toktok.batch_count([text], "cl100k_base") != toktok.batch_count([text], "o200k_base")
    assert [encoding_of(model).count(text)] == toktok.batch_count([text], name)

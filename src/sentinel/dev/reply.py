"""What the OpenAI simulator says, and how many tokens that is: plain values in, plain values out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, cast

from toktok import _encoding

from sentinel.dev.directive import Directive
from sentinel.dev.schema import fitting

Kind = Literal["content", "refusal", "tool", "thinking"]

# Every word below is one token in both encodings, alone and in a row (a test checks it), so a reply of n pieces is
# exactly n tokens.
DEFAULT_REPLY = ("Hello", "!", " I", " am", " a", " simulated", " model", ",", " and", " happy", " to", " help", ".")
REFUSAL = ("Sorry", ",", " I", " cannot", " help", " with", " that", ".")
PLAIN_WORDS = (
    *(
        " The",
        " river",
        " bends",
        " toward",
        " an",
        " old",
        " stone",
        " bridge",
        " where",
        " lights",
        " turn",
        " slowly",
    ),
    *(" and", " every", " small", " boat", " finds", " its", " way", " home", " before", " night", " comes", " again"),
)
EMOJI_WORDS = (" é", " 🙂", " à", " 日", " ❤", " в", " →", " ü", " не")


class Encoding(Protocol):
    """The part of a toktok tokenizer that is used here."""

    def count(self, text: str) -> int:
        """Count the tokens of `text`."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Give the token ids of `text`."""

    def decode_bytes(self, ids: list[int]) -> bytes:
        """Give the bytes of token ids."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk carries."""

    text: str
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice of an answer.

    tool: the name of the called tool; its tokens are those of the first piece, which has no text.
    """

    kind: Kind
    pieces: tuple[Piece, ...]
    finish_reason: Literal["stop", "length", "tool_calls"]
    tool: str = ""

    @property
    def text(self) -> str:
        """The whole text, or the arguments of the tool call."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> int:
        """How many tokens the choice is billed with."""
        return sum(piece.tokens for piece in self.pieces)


@lru_cache(maxsize=256)
def encoding_of(model: str) -> Encoding:
    """The encoding of a model: cl100k_base for embeddings, and the GPT-4 and GPT-3.5 of old; else o200k_base."""
    old = model == "gpt-4" or model.startswith(("gpt-4-", "gpt-3.5", "davinci-002", "babbage-002", "text-embedding-"))
    return cast("Encoding", _encoding("cl100k_base" if old else "o200k_base"))


def chat_prompt_tokens(encoding: Encoding, messages: list[dict[str, Any]]) -> int:
    """Count a conversation by OpenAI's published formula: 3 per message, 1 per name, 3 for the reply's start."""
    total = 3
    for message in messages:
        total += 3 + encoding.count(message["role"])
        total += sum(encoding.count(text) for text in texts_of(message.get("content")))
        name = message.get("name")
        if name:
            total += 1 + encoding.count(name)
    return total


def texts_of(content: Any) -> list[str]:
    """The texts of a message's content, be it one text or a list of parts."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        return [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return []


def prompts_tokens(encoding: Encoding, prompt: Any) -> int:
    """Count the prompt of a legacy completion: a text, texts, one list of token ids, or several."""
    if isinstance(prompt, str):
        return encoding.count(prompt)
    if isinstance(prompt, list):
        return sum(1 if isinstance(part, int) else prompts_tokens(encoding, part) for part in prompt)
    return 0


def think(tokens: int, limit: int | None) -> Reply:
    """So many tokens of thinking. limit: as in `say`."""
    pieces, is_whole = _kept([Piece(PLAIN_WORDS[index % len(PLAIN_WORDS)]) for index in range(tokens)], limit)
    return Reply("thinking", pieces, "stop" if is_whole else "length")


@lru_cache(maxsize=512)
def say(directive: Directive, choice: int, limit: int | None) -> Reply:
    """Decide the text of one choice. choice: its index, so that choices differ. limit: most tokens, None for any."""
    if directive.refusal:
        words: tuple[str, ...] = REFUSAL
    elif directive.tokens is None and not directive.text_emoji:
        words = DEFAULT_REPLY
    else:
        source = EMOJI_WORDS if directive.text_emoji else PLAIN_WORDS
        count = 12 if directive.tokens is None else directive.tokens
        words = tuple(source[(choice + index) % len(source)] for index in range(count))
    cut = limit is not None and len(words) > limit
    pieces = tuple(Piece(word) for word in words[:limit])
    return Reply("refusal" if directive.refusal else "content", pieces, "length" if cut else "stop")


def answer_in_json(encoding: Encoding, form: dict[str, Any], directive: Directive, limit: int | None) -> Reply:
    """Decide an answer in JSON: one that fits the schema of `response_format`, or any object. limit: as in `say`.

    Raises Unfit where no value fits.
    """
    if form["type"] == "json_schema":
        value = fitting(form["json_schema"].get("schema", {}))
    else:
        value = {"reply": say(directive, 0, None).text}
    pieces, is_whole = _kept(_fragments(encoding, value), limit)
    return Reply("content", pieces, "stop" if is_whole else "length")


def call_tool(encoding: Encoding, tool: dict[str, Any], limit: int | None) -> Reply:
    """Decide a tool call: arguments that fit the tool's JSON schema, one piece per token. limit: as in `say`.

    Raises Unfit where no arguments fit.
    """
    function = tool["function"]
    name = function["name"]
    arguments = _fragments(encoding, fitting(function.get("parameters") or {"type": "object"}))
    pieces, is_whole = _kept([Piece("", encoding.count(name)), *arguments], limit)
    return Reply("tool", pieces, "tool_calls" if is_whole else "length", name)


def _fragments(encoding: Encoding, value: Any) -> list[Piece]:
    """A value as JSON, one piece per token. It is ASCII, so that no character falls between two tokens."""
    text = json.dumps(value, separators=(",", ":"))
    return [Piece(encoding.decode_bytes([token]).decode()) for token in encoding.encode_ordinary(text)]


def _kept(pieces: list[Piece], limit: int | None) -> tuple[tuple[Piece, ...], bool]:
    """So many pieces as fit into `limit` tokens, and whether these are all."""
    kept: list[Piece] = []
    left = limit
    for piece in pieces:
        if left is not None:
            left -= piece.tokens
            if left < 0:
                break
        kept.append(piece)
    return tuple(kept), len(kept) == len(pieces)

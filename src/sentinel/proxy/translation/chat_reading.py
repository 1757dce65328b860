"""What an answer in chat's format says, whole or in pieces, in whichever fields providers put it.

Source: OpenAI's API reference; `reasoning_content` is DeepSeek's and vLLM's, `reasoning` Ollama's, Groq's and
OpenRouter's, a list as content Mistral's. tokens/answer.py counts the same texts.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from sentinel.proxy.translation.pair import string
from sentinel.tokens.usage import Usage, usage_beside


class CallPiece(Struct, frozen=True, gc=False):
    """A call of a tool, or more of one. index: as the provider numbers it, -1 where it does not."""

    index: int
    id: str
    name: str
    arguments: str


class Said(Struct, frozen=True, gc=False):
    """What a message says, or what is new of it."""

    reasoning: str
    text: str
    refusal: str
    calls: list[CallPiece]


def choice_of(event: Any) -> dict[str, Any] | None:
    """The first choice of an answer or an event; None where there is none. No other was asked for."""
    choices = event.get("choices") if isinstance(event, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def usage_of(event: dict[str, Any]) -> Usage:
    """The usage that an answer or an event tells."""
    choice = choice_of(event) or {}
    return usage_beside(event.get("usage"), event.get("x_groq"), [choice.get("usage")])


def said(message: Any) -> Said:
    """Read a message, or a delta. What has another shape says nothing."""
    if not isinstance(message, dict):
        return Said("", "", "", [])
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    text = string(content) or "".join(_text_of(part) for part in parts)
    thought = "".join(_thought_of(part) for part in parts)
    # Some say it twice, under both names.
    reasoning = string(message.get("reasoning_content")) or string(message.get("reasoning")) or thought
    calls = message.get("tool_calls")
    pieces = [_call(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return Said(reasoning, text, string(message.get("refusal")), pieces)


def call_id(piece: CallPiece, answer_id: Any, number: int) -> str:
    """The id of a call; made of the answer's and its number where the provider gives it none."""
    return piece.id or f"call_{answer_id or ''}_{number}"


def _call(call: dict[str, Any]) -> CallPiece:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    index, arguments = call.get("index"), function.get("arguments")
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    return CallPiece(
        index if isinstance(index, int) else -1,
        string(call.get("id")),
        string(function.get("name")),
        string(arguments),
    )


def _text_of(part: Any) -> str:
    return string(part.get("text")) if isinstance(part, dict) and part.get("type") == "text" else ""


def _thought_of(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "thinking":
        return ""
    thought = part.get("thinking")
    return "".join(_text_of(each) for each in thought) if isinstance(thought, list) else string(thought)


class Calls:
    """The calls of one stream. Providers number them, or give all the same number and an id to each."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._of_index: dict[int, int] = {}

    def number(self, piece: CallPiece) -> tuple[int, bool]:
        """Which call a piece belongs to, and whether it begins it."""
        last = len(self._ids) - 1
        known = self._of_index.get(piece.index, -1) if piece.index >= 0 else (-1 if piece.name else last)
        if known >= 0 and (not piece.id or piece.id == self._ids[known]):
            return known, False
        self._ids.append(piece.id)
        self._of_index[piece.index] = last + 1
        return last + 1, True

"""OpenAI's answers as JSON and as server-sent events, with every field that OpenAI sends."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sentinel.dev.validation import trouble_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.dev.directive import Directive
    from sentinel.dev.reply import Piece, Reply

DONE = b"data: [DONE]\n\n"

# Cut off inside a value, and with a character of several bytes, so that neither JSON nor UTF-8 saves a careless reader.
BAD_LINE = 'data: {"id":"chatcmpl-é\n\n'.encode()

_FINGERPRINT = "fp_simulator0"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all parts of one answer share. chat: or else a legacy completion. created: Unix seconds.

    reasoning: tokens that were thought.
    """

    id: str
    model: str
    created: int
    chat: bool
    logprobs: bool
    include_usage: bool
    reasoning: int = 0

    def usage(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        """The usage object."""
        return usage(prompt_tokens, completion_tokens, self.reasoning)

    def whole(self, replies: list[Reply], usage_object: dict[str, Any] | None) -> bytes:
        """The answer in one piece. usage_object: None leaves it out."""
        return whole(self, replies, usage_object)

    def events(self, replies: list[Reply], directive: Directive) -> Iterator[Event]:
        """The answer as events, up to and without usage and `[DONE]`."""
        return events(self, replies, directive)

    def ending(self, _: list[Reply], usage_object: dict[str, Any] | None, directive: Directive) -> list[bytes]:
        """The chunk that carries the usage, where it was asked for, and `[DONE]`."""
        told = [usage_event(self, usage_object)] if self.include_usage and usage_object is not None else []
        return told if directive.no_done else [*told, DONE]

    def failure(self) -> bytes:
        """An error in place of a chunk."""
        return b"data: %b\n\n" % trouble_of(500).body


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; `tokens` above 0 marks a chunk that carries a part of the reply."""

    data: bytes
    tokens: int = 0


def usage(prompt_tokens: int, completion_tokens: int, reasoning_tokens: int = 0) -> dict[str, Any]:
    """The usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def whole(envelope: Envelope, replies: list[Reply], usage_object: dict[str, Any] | None) -> bytes:
    """The answer in one piece. usage_object: None leaves it out."""
    build = _chat_choice if envelope.chat else _text_choice
    body = _head(envelope, "chat.completion" if envelope.chat else "text_completion")
    body["choices"] = [build(envelope, index, reply) for index, reply in enumerate(replies)]
    if usage_object is not None:
        body["usage"] = usage_object
    return msgspec.json.encode(body)


def events(envelope: Envelope, replies: list[Reply], directive: Directive) -> Iterator[Event]:
    """The answer as events, up to and without usage and `[DONE]`; several choices take turns."""
    if envelope.chat:
        for index, reply in enumerate(replies):
            yield _event(envelope, index, _opening(reply))
    total = max((len(reply.pieces) for reply in replies), default=0)
    for turn, pieces in enumerate(zip_longest(*(reply.pieces for reply in replies))):
        if turn == total // 2:
            yield from _interlude(envelope, directive)
        for index, piece in enumerate(pieces):
            if piece is not None:
                yield _piece_event(envelope, index, replies[index], piece, first=turn == 0)
    for index, reply in enumerate(replies):
        yield _event(envelope, index, {} if envelope.chat else "", reply.finish_reason)


def usage_event(envelope: Envelope, usage_object: dict[str, Any]) -> bytes:
    """The chunk without choices that carries the usage."""
    return _sse({**_head(envelope, _chunk_object(envelope)), "choices": [], "usage": usage_object})


def cut_in_two(data: bytes, split: Literal["line", "utf8"]) -> int:
    """Say where to cut an event: inside its line, or inside its first character of several bytes; 0 for nowhere."""
    if split == "line":
        return len(data) // 2
    return next((index + 1 for index, byte in enumerate(data) if byte >= 0xC0), 0)


def _head(envelope: Envelope, kind: str) -> dict[str, Any]:
    head = {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}
    if envelope.chat:
        head["service_tier"] = "default"
    head["system_fingerprint"] = _FINGERPRINT
    return head


def _chunk_object(envelope: Envelope) -> str:
    return "chat.completion.chunk" if envelope.chat else "text_completion"


def _sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _chat_choice(envelope: Envelope, index: int, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if reply.kind == "tool":
        message["tool_calls"] = [_tool_call(envelope, index, reply.tool, reply.text)]
    else:
        message[reply.kind] = reply.text
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(reply) if envelope.logprobs else None,
        "finish_reason": reply.finish_reason,
    }


def _text_choice(_: Envelope, index: int, reply: Reply) -> dict[str, Any]:
    return {"text": reply.text, "index": index, "logprobs": None, "finish_reason": reply.finish_reason}


def _tool_call(envelope: Envelope, choice: int, name: str, arguments: str) -> dict[str, Any]:
    call_id = f"call_{envelope.id[-20:]}{choice:04}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _logprobs(reply: Reply, pieces: tuple[Piece, ...] | None = None) -> dict[str, Any]:
    content = [
        {"token": piece.text, "logprob": -0.25, "bytes": list(piece.text.encode()), "top_logprobs": []}
        for piece in (reply.pieces if pieces is None else pieces)
    ]
    return {"content": content, "refusal": None}


def _opening(reply: Reply) -> dict[str, Any]:
    content = None if reply.kind == "tool" else ""
    return {"role": "assistant", "content": content, "refusal": None}


def _piece_event(envelope: Envelope, index: int, reply: Reply, piece: Piece, *, first: bool) -> Event:
    if not envelope.chat:
        return _event(envelope, index, piece.text, tokens=piece.tokens)
    logprobs = _logprobs(reply, (piece,)) if envelope.logprobs else None
    if reply.kind != "tool":
        return _event(envelope, index, {reply.kind: piece.text}, tokens=piece.tokens, logprobs=logprobs)
    fragment: dict[str, Any] = {"index": 0, "function": {"arguments": piece.text}}
    if first:
        fragment = {"index": 0, **_tool_call(envelope, index, reply.tool, "")}
    return _event(envelope, index, {"tool_calls": [fragment]}, tokens=piece.tokens)


def _event(
    envelope: Envelope,
    index: int,
    delta: dict[str, Any] | str,
    finish_reason: str | None = None,
    *,
    tokens: int = 0,
    logprobs: dict[str, Any] | None = None,
    padding: int = 0,
) -> Event:
    chunk = _head(envelope, _chunk_object(envelope))
    name = "delta" if envelope.chat else "text"
    chunk["choices"] = [{"index": index, name: delta, "logprobs": logprobs, "finish_reason": finish_reason}]
    if envelope.include_usage:
        chunk["usage"] = None
    if envelope.chat:
        chunk["obfuscation"] = "x" * padding or "xK3"  # OpenAI pads chunks with noise; clients must not mind.
    return Event(_sse(chunk), tokens)


def _interlude(envelope: Envelope, directive: Directive) -> Iterator[Event]:
    """What a directive wants in the middle of a stream; it says nothing and costs nothing."""
    if directive.big_event is not None:
        yield _event(envelope, 0, {} if envelope.chat else "", padding=directive.big_event)
    if directive.bad_line:
        yield Event(BAD_LINE)

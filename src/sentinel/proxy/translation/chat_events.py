"""Answers in chat's format, whole and as events.

Source: OpenAI's API reference, "The chat completion object" and "The chat completion chunk object". Reasoning is told
as DeepSeek and vLLM do (`reasoning_content`); blocks with a signature, which a provider wants back, as LiteLLM does
(`thinking_blocks`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sentinel.endpoints.refusal import refusal_of
from sentinel.tokens.usage import Usage

DONE: Final = b"data: [DONE]\n\n"
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Usage as chat tells it: what was cached is part of the prompt, what was reasoned part of the completion."""
    output = usage.output_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": usage.prompt_tokens + output,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def error_of(error: dict[str, Any], status: int) -> dict[str, Any]:
    """A provider's error in OpenAI's shape."""
    kind = _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "server_error")
    return {"error": {"message": str(error.get("message", "")), "type": kind, "param": None, "code": None}}


def refusal(status: int, body: bytes) -> bytes:
    """A provider's refusal as the body of an answer."""
    _, error, told = refusal_of(body)
    return msgspec.json.encode(error_of(error or {"message": told}, status))


def error_event(error: dict[str, Any], status: int) -> bytes:
    """A provider's error as the last event."""
    return _event(error_of(error, status))


def completion(envelope: dict[str, Any], choices: list[tuple[dict[str, Any], str]], usage: Usage) -> bytes:
    """A whole answer. choices: the fields of each message, and why it ended."""
    told = [
        {"index": index, "message": {"role": "assistant", "content": None, "refusal": None, **message},
         "logprobs": None, "finish_reason": reason}
        for index, (message, reason) in enumerate(choices)
    ]  # fmt: skip
    return msgspec.json.encode({**envelope, "object": "chat.completion", "choices": told, "usage": usage_of(usage)})


class ChatEvents:
    """The events of one stream. wants_usage: the client asked for the event with nothing but usage."""

    def __init__(self, created: int, *, wants_usage: bool) -> None:
        self._envelope: dict[str, Any] = {"id": "", "object": "chat.completion.chunk", "created": created, "model": ""}
        self._wants_usage = wants_usage
        self._begun: set[int] = set()
        """Choices of which the client has something."""

    def name(self, id_: Any, model: Any) -> None:
        """What all events have in common, as the provider has said it."""
        self._envelope |= {"id": str(id_ or ""), "model": str(model or "")}

    def delta(self, delta: dict[str, Any], reason: str | None = None, index: int = 0) -> bytes:
        """A piece of a choice, or why it ended; its first one says whose it is."""
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", **delta}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**self._envelope, "choices": [choice], **({"usage": None} if self._wants_usage else {})})

    def done(self, usage: Usage) -> bytes:
        """The last events."""
        told = _event({**self._envelope, "choices": [], "usage": usage_of(usage)}) if self._wants_usage else b""
        return told + DONE


def call(number: int, id_: str, name: str, arguments: str) -> dict[str, Any]:
    """A delta that begins a call. number: among the calls of its choice."""
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": number, "id": id_, "type": "function", "function": function}]}


def arguments(number: int, piece: str) -> dict[str, Any]:
    """A delta with more of the arguments of a call."""
    return {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(fields)

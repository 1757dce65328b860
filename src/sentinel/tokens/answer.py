"""What Sentinel decodes of a provider's answer: one stream event, or a whole JSON body.

Tolerant: every field may be null or absent, unknown ones are ignored; the client gets the provider's bytes, not this.
A field of a wrong type raises msgspec.ValidationError; the caller relays the bytes all the same.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from sentinel.tokens.request import CustomCall, FunctionCall, Part

# A usage number beyond 2**53 is a broken provider; refusing it keeps every sum exact in Lua (doubles), too.
Tokens = Annotated[int, Meta(ge=0, le=2**53)]


class Usage(Struct, gc=False):
    """The provider's own count, in tokens; None for what it does not tell."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    total_tokens: Tokens | None = None


class ToolCallDelta(Struct, gc=False):
    """A piece of one tool call; `index` says of which."""

    index: int | None = None
    function: FunctionCall | None = None
    custom: CustomCall | None = None


class Delta(Struct, gc=False):
    """A choice's `delta` in a stream, or its `message` in a whole answer."""

    content: str | list[Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionCall | None = None


class Choice(Struct, gc=False):
    """One choice of chat (`delta` or `message`) or of completions (`text`)."""

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Chunk(Struct, gc=False):
    """One event of a stream, of /v1/chat/completions and /v1/completions alike."""

    choices: list[Choice] | None = None
    usage: Usage | None = None


class Answer(Struct, gc=False):
    """A whole JSON answer, of /v1/chat/completions and /v1/completions alike."""

    choices: list[Choice] | None = None
    usage: Usage | None = None


_answer = msgspec.json.Decoder(Answer)
_parts = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_answer(body: bytes) -> Answer:
    """Read a whole answer; a part whose shape nobody knows yet is as good as absent.

    Raises msgspec.DecodeError, UnicodeDecodeError or RecursionError for what is no JSON object.
    """
    try:
        return _answer.decode(body)
    except msgspec.ValidationError:
        parts = _parts.decode(body)
        return Answer(_part(parts.get("choices"), list[Choice]), _part(parts.get("usage"), Usage))


def _part(raw: msgspec.Raw | None, kind: Any) -> Any:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError:
        return None

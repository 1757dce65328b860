"""The requests to /v1/responses that can be translated: every field and every value that has a place elsewhere.

What is called a hint here changes nothing of what the model is asked, and is left out (docs/translation.md).
Source: OpenAI's API reference, "Create a model response"; what Codex sends.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from sentinel.proxy.translation.chat_request import Nothing
from sentinel.proxy.translation.strict import read_part, unsupported


class _Strict(Struct, forbid_unknown_fields=True, gc=False):
    pass


class _Typed(_Strict, tag_field="type"):
    pass


class InputText(_Typed, tag="input_text"):
    text: str


class InputImage(_Typed, tag="input_image"):
    image_url: str
    detail: Literal["auto", "low", "high"] | None = None
    file_id: None = None


class InputFile(_Typed, tag="input_file"):
    file_data: str
    filename: str | None = None
    file_id: None = None


class OutputText(_Typed, tag="output_text"):
    """Its probabilities are a hint, and what OpenAI's SDK has made of it (`parsed`)."""

    text: str
    annotations: Nothing = None
    logprobs: Raw = Raw()
    parsed: Raw = Raw()


class Refusal(_Typed, tag="refusal"):
    refusal: str


Part: TypeAlias = InputText | InputImage | InputFile | OutputText | Refusal


class _Item(_Strict, kw_only=True):
    """Where an item lies at a provider, and whether it is done, is a hint: all of it is here."""

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(_Item, kw_only=True):
    role: Literal["user", "system", "developer", "assistant"]
    content: str | list[Part]
    type: Literal["message"] = "message"
    phase: Literal["commentary", "final_answer"] | None = None
    end_turn: bool | None = None


class CallItem(_Item, kw_only=True):
    call_id: str
    name: str
    arguments: str
    type: Literal["function_call"]
    namespace: str | None = None
    caller: None = None
    parsed_arguments: Raw = Raw()
    also_async: Literal[False] | None = msgspec.field(default=None, name="async")


class OutputItem(_Item, kw_only=True):
    """Its function's name and namespace are hints: the call with this id has them."""

    call_id: str
    output: str | list[InputText | InputImage]
    type: Literal["function_call_output"]
    name: str | None = None
    namespace: str | None = None
    caller: None = None


class ReasoningItem(_Item, kw_only=True):
    """A hint: earlier reasoning is no part of a chat, and encrypted for the provider that has it."""

    type: Literal["reasoning"]
    summary: Raw = Raw()
    content: Raw = Raw()
    encrypted_content: str | None = None


Item: TypeAlias = MessageItem | CallItem | OutputItem | ReasoningItem


class FunctionTool(_Typed, tag="function"):
    name: str
    parameters: Raw = Raw()
    description: str | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    output_schema: None = None


class NamespaceTool(_Typed, tag="namespace"):
    name: str
    tools: Annotated[list[FunctionTool], Meta(min_length=1)]
    description: str = ""


class NamedChoice(_Typed, tag="function"):
    name: str


class TextFormat(_Typed, tag="text"):
    pass


class ObjectFormat(_Typed, tag="json_object"):
    pass


class SchemaFormat(_Typed, tag="json_schema"):
    name: str
    schema: Raw
    description: str | None = None
    strict: bool | None = None


class TextConfig(_Strict):
    format: TextFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(_Strict):
    """A summary is a hint: what a provider tells of its reasoning is told as it is."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


class StreamOptions(_Strict):
    """A hint: it pads events."""

    include_obfuscation: bool | None = None


class ResponsesRequest(_Strict, kw_only=True):
    """Nothing of it may lie at a provider. To include encrypted reasoning is a hint: chat has none."""

    model: str
    input: str | list[Raw]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[FunctionTool | NamespaceTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = None
    metadata: dict[str, str] | None = None
    client_metadata: Raw = Raw()
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    max_tool_calls: None = None
    context_management: Nothing = None


class _ItemType(Struct, gc=False):
    type: str | None = None


_type = msgspec.json.Decoder(_ItemType)
_DECODERS: Final[dict[str | None, msgspec.json.Decoder[Item]]] = {
    None: msgspec.json.Decoder(MessageItem),
    "message": msgspec.json.Decoder(MessageItem),
    "function_call": msgspec.json.Decoder(CallItem),
    "function_call_output": msgspec.json.Decoder(OutputItem),
    "reasoning": msgspec.json.Decoder(ReasoningItem),
}


def items_of(request: ResponsesRequest) -> list[Item]:
    """All items of the input. Raises UnsupportedParameter, MissingParameter."""
    if isinstance(request.input, str):
        return [MessageItem(role="user", content=request.input)]
    items: list[Item] = []
    for position, raw in enumerate(request.input):
        path = f"input[{position}]"
        decoder = _DECODERS.get(read_part(_type, raw, path).type)
        if decoder is None:
            raise unsupported(f"{path}.type")
        items.append(read_part(decoder, raw, path))
    return items

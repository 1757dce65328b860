"""What Sentinel decodes of a request to POST /v1/responses, and the chat that it is for whoever counts it.

OpenAI publishes no formula for this format. A model is shown its items as it is shown messages, so they are counted as
the messages that they would be in a chat. An item, or a part of one, of a type that is not named here is charged by all
of its JSON: nothing is free for being unknown.

What is kept by the provider and only named here (`previous_response_id`, `conversation`, `prompt`, `item_reference`,
files) cannot be counted; the provider's usage bills it.
Source: OpenAI API reference, "Create a model response"; openai-python, types/responses/response_input_item_param.py.
"""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from sentinel.tokens.request import (
    MOST_TOOLS,
    ChatRequest,
    CustomCall,
    Function,
    FunctionCall,
    InputAudio,
    InputFile,
    Message,
    ModelName,
    Part,
    TokenLimit,
    Tool,
    ToolCall,
)
from sentinel.tokens.tools import json_text

T = TypeVar("T")

_NOTHING: Final = (Raw(), Raw(b"null"))


class _Text(Struct, gc=False):
    """How the answer's text should look."""

    format: Raw = Raw()


class ResponsesBody(Struct, gc=False):
    """The body of POST /v1/responses, as far as Sentinel decides on it. Items, tools and their like are still JSON."""

    model: ModelName
    input: str | list[Raw] | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: TokenLimit | None = None
    tools: Annotated[list[Raw], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: Raw = Raw()
    text: _Text | None = None
    previous_response_id: str | None = None
    conversation: Raw = Raw()
    prompt: Raw = Raw()
    background: bool | None = None

    @property
    def is_all_here(self) -> bool:
        """Whether nothing of the input lies at the provider, as far as that is told beside the items."""
        return self.previous_response_id is None and self.conversation in _NOTHING and self.prompt in _NOTHING

    @property
    def has_input(self) -> bool:
        """Whether there is anything to answer, here or at the provider."""
        return self.input is not None or not self.is_all_here


class _ItemType(Struct, gc=False):
    """What tells the types of items apart; one that names no type is a message, or refers to another by its id."""

    type: str | None = None
    role: Raw = Raw()
    id: Raw = Raw()


class _NamedType(Struct, gc=False):
    type: str | None = None


class _PartType(Struct, gc=False):
    type: str


class _MessageItem(Struct, gc=False):
    role: str
    content: str | list[Raw]


class _OutputItem(Struct, gc=False):
    output: Raw = Raw()


class _ImageItem(Struct, gc=False):
    result: str | None = None


class _Part(Struct, gc=False):
    """One part of a content, of a type that is known."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    input_audio: InputAudio | None = None
    filename: str | None = None


_IMAGES: Final = frozenset(("input_image", "computer_screenshot"))
_PARTS: Final = _IMAGES | {
    *("input_text", "output_text", "summary_text", "reasoning_text", "text"),
    *("refusal", "input_audio", "input_file"),
}
_OUTPUTS: Final = frozenset(("function_call_output", "custom_tool_call_output", "computer_call_output"))

_body = msgspec.json.Decoder(ResponsesBody)
_tool_type = _format = msgspec.json.Decoder(_NamedType)
_item_type = msgspec.json.Decoder(_ItemType)
_part_type = msgspec.json.Decoder(_PartType)
_function = msgspec.json.Decoder(Function)
_message_item = msgspec.json.Decoder(_MessageItem)
_function_call = msgspec.json.Decoder(FunctionCall)
_custom_call = msgspec.json.Decoder(CustomCall)
_output_item = msgspec.json.Decoder(_OutputItem)
_image_item = msgspec.json.Decoder(_ImageItem)
_part = msgspec.json.Decoder(_Part)
_string = msgspec.json.Decoder(str)
_list = msgspec.json.Decoder(list[Raw])


def read_body(body: bytes) -> tuple[ResponsesBody, ChatRequest]:
    """What a body says, and the chat that it is counted as. Raises msgspec.DecodeError, RecursionError."""
    fields = _body.decode(body)
    messages: list[Message] = []
    if fields.instructions is not None:
        messages.append(Message("system", fields.instructions))
    if isinstance(fields.input, str):
        messages.append(Message("user", fields.input))
    for position, raw in enumerate(fields.input if isinstance(fields.input, list) else ()):
        _read_item(messages, raw, f"input[{position}]")
    if fields.prompt not in _NOTHING:
        # Its text is at the provider; what it is filled with is here.
        messages.append(Message("user", json_text(fields.prompt)))
    tools = [_tool_of(raw, f"tools[{position}]") for position, raw in enumerate(fields.tools or ())]
    form = _response_format(Raw() if fields.text is None else fields.text.format)
    choice = fields.tool_choice
    return fields, ChatRequest(fields.model, messages, tools=tools or None, tool_choice=choice, response_format=form)


def _decoded(decoder: "msgspec.json.Decoder[T]", raw: Raw, path: str) -> T:
    """A piece of a body. Raises ValidationError with the place in the body."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        reason, _, inside = str(error).partition(" - at `$")
        raise msgspec.ValidationError(f"{reason} - at `$.{path}{inside or '`'}") from error


def _response_format(raw: Raw) -> Raw:
    """A format with a schema as a chat has it; others cost nothing."""
    if raw in _NOTHING or _decoded(_format, raw, "text.format").type != "json_schema":
        return Raw()
    return Raw(b'{"json_schema":%b}' % bytes(raw))


def _tool_of(raw: Raw, path: str) -> Tool:
    """A function, or what else the model may use, which counts as its JSON."""
    if _decoded(_tool_type, raw, path).type == "function":
        return Tool("function", _decoded(_function, raw, path))
    return Tool(custom=raw)


def _read_item(messages: list[Message], raw: Raw, path: str) -> None:
    item = _decoded(_item_type, raw, path)
    kind = item.type
    if kind == "item_reference" or (kind is None and not item.role and item.id):
        return
    if kind in (None, "message"):
        message = _decoded(_message_item, raw, path)
        messages.append(Message(message.role, _content(message.content, f"{path}.content")))
    elif kind == "function_call":
        _add_call(messages, ToolCall(function=_decoded(_function_call, raw, path)))
    elif kind == "custom_tool_call":
        _add_call(messages, ToolCall(custom=_decoded(_custom_call, raw, path)))
    elif kind in _OUTPUTS:
        messages.append(Message("tool", _output(_decoded(_output_item, raw, path).output, f"{path}.output")))
    elif kind == "image_generation_call":
        result = _decoded(_image_item, raw, path).result
        image = [Part("input_image", image_url=f"data:image/png;base64,{result}")] if result else None
        messages.append(Message("assistant", image))
    else:
        messages.append(Message("assistant", json_text(raw)))


def _add_call(messages: list[Message], call: ToolCall) -> None:
    """Calls that follow each other are one message, as a model has made them."""
    last = messages[-1] if messages else None
    if last is not None and last.tool_calls is not None:
        last.tool_calls.append(call)
    else:
        messages.append(Message("assistant", tool_calls=[call]))


def _output(raw: Raw, path: str) -> str | list[Part]:
    """What a tool has said: a text, parts, or one part."""
    start = bytes(memoryview(raw)[:1])
    if start == b'"':
        return _decoded(_string, raw, path)
    if start == b"[":
        return _content(_decoded(_list, raw, path), path)
    if start == b"{":
        return [_part_of(raw, path)]
    return json_text(raw) if raw else ""


def _content(content: str | list[Raw], path: str) -> str | list[Part]:
    if isinstance(content, str):
        return content
    return [_part_of(raw, f"{path}[{position}]") for position, raw in enumerate(content)]


def _part_of(raw: Raw, path: str) -> Part:
    if _decoded(_part_type, raw, path).type not in _PARTS:
        return Part("text", json_text(raw))
    part: Any = _decoded(_part, raw, path)
    # A picture that is kept by the provider, or elsewhere, has a size that nobody here knows.
    image = part.image_url or "" if part.type in _IMAGES else part.image_url
    file = InputFile(part.filename) if part.type == "input_file" else None
    return Part(part.type, part.text, part.refusal, image, part.detail, part.input_audio, file)

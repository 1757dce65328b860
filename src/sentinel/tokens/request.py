"""What Sentinel decodes of a client's request. Everything else in the body is ignored here and forwarded untouched.

`msgspec.json.Decoder(ChatRequest).decode(body)` raises msgspec.ValidationError with the path of the wrong field
(`... - at `$.messages[0].role``). Numbers that no model could take are refused here, so nothing later overflows.
All structs are trees (never cyclic), hence `gc=False`: the garbage collector need not walk them.
"""

from typing import Annotated, Any, ClassVar, TypeAlias

from msgspec import Meta, Raw, Struct

# OpenAI keeps these numbers in 32 bits; 0 is left to the provider, which knows where it is allowed.
TokenLimit = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# OpenAI's own maximum for `n` (and `best_of` is lower still).
ChoiceCount = Annotated[int, Meta(ge=1, le=128)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]

# The longest names are those of fine-tuned models, about 100 characters. What is kept by model must not grow by names.
ModelName = Annotated[str, Meta(max_length=256)]

# Only what is counted is taken apart, by tools.py, in pieces: a megabyte of nested lists read at once would hold up all
# threads for 50 ms. No provider takes a hundredth of so many tools; each must become an object before it is counted.
MOST_TOOLS = 10_000

Prompt: TypeAlias = str | list[str | TokenId | list[TokenId]] | None


def _refuse_mixed(prompt: Prompt, field: str) -> None:
    if isinstance(prompt, list) and len(set(map(type, prompt))) > 1:
        raise ValueError(f"Expected an array of strings, of token ids, or of token-id arrays - at `$.{field}`")


class StreamOptions(Struct, gc=False):
    """What a stream should tell beside its text."""

    include_usage: bool | None = None


class ImageUrl(Struct, gc=False):
    """An image, remote or inline as a data URL."""

    url: str | None = None
    detail: str | None = None


class InputAudio(Struct, gc=False):
    """Sound, inline in base64."""

    data: str | None = None
    format: str | None = None


class InputFile(Struct, gc=False):
    """A file, inline or kept by the provider; only its name is looked at."""

    filename: str | None = None


class Part(Struct, gc=False):
    """One part of a message's content; `type` says which of the others is set."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    detail: str | None = None
    input_audio: InputAudio | None = None
    file: InputFile | None = None


class FunctionCall(Struct, gc=False):
    """A call of a function; `arguments` is JSON text as the model wrote it."""

    name: str | None = None
    arguments: str | None = None


class CustomCall(Struct, gc=False):
    """A call of a custom tool; `input` is free text."""

    name: str | None = None
    input: str | None = None


class ToolCall(Struct, gc=False):
    """One call in an assistant message; exactly one of the two is set."""

    function: FunctionCall | None = None
    custom: CustomCall | None = None


class Message(Struct, gc=False):
    """One message of a chat. Any role is taken; the provider judges it."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None


class Function(Struct, gc=False):
    """A function that the model may call. `parameters` is a JSON Schema; the provider judges it, not we."""

    name: str
    description: str | None = None
    parameters: Raw = Raw()


class Tool(Struct, gc=False):
    """A tool that the model may call: a function, or a custom tool of whatever shape."""

    type: str | None = None
    function: Function | None = None
    custom: Raw = Raw()


class ChatRequest(Struct, gc=False):
    """The body of POST /v1/chat/completions, as far as Sentinel decides on it."""

    model: ModelName
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    n: ChoiceCount | None = None
    tools: Annotated[list[Tool], Meta(max_length=MOST_TOOLS)] | None = None
    functions: Annotated[list[Function], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: Raw = Raw()
    function_call: Raw = Raw()
    response_format: Raw = Raw()
    store: Any = None


class Source(Struct, gc=False):
    """Where an image or a document of a message is: inline as base64 or text, remote, or kept by the provider."""

    type: str | None = None
    media_type: str | None = None
    data: str | None = None
    content: Raw = Raw()


class Block(Struct, gc=False):
    """A block of a message's content in Anthropic's format; `type` says what is set. Of others only the bytes count.

    content: of a tool's result or the like, a text or blocks again. input: of a tool's call, as JSON. data: of thinking
    that only the provider can read.
    """

    type: str
    text: str | None = None
    thinking: str | None = None
    name: str | None = None
    source: Source | str | None = None
    data: Raw = Raw()
    title: Raw = Raw()
    context: Raw = Raw()
    input: Raw = Raw()
    content: Raw = Raw()


class Turn(Struct, gc=False):
    """One message in Anthropic's format."""

    role: str
    content: str | list[Block]


class Thinking(Struct, gc=False):
    """Whether a model is to think before it speaks, and for how many tokens at most."""

    type: str | None = None
    budget_tokens: TokenLimit | None = None


class Turns(Struct, gc=False, kw_only=True):
    """What is counted of a body in Anthropic's messages format."""

    model: ModelName
    messages: list[Turn]
    system: str | list[Block] | None = None
    tools: Annotated[list[Raw], Meta(max_length=MOST_TOOLS)] | None = None
    thinking: Thinking | None = None
    output_config: Raw = Raw()
    output_format: Raw = Raw()

    def forget(self) -> None:
        """Free what was read to be counted."""
        self.messages = []
        self.system = self.tools = None
        # The others hold on to the bytes of the body.
        self.output_config = self.output_format = Raw()


class CountRequest(Turns, gc=False, kw_only=True):
    """The body of POST /v1/messages/count_tokens, as far as Sentinel decides on it."""

    stream: ClassVar[bool | None] = None


class MessageRequest(Turns, gc=False, kw_only=True):
    """The body of POST /v1/messages, as far as Sentinel decides on it."""

    max_tokens: TokenLimit
    stream: bool | None = None


class EmbeddingRequest(Struct, gc=False):
    """The body of POST /v1/embeddings, as far as Sentinel decides on it; it has no streams."""

    model: ModelName
    input: Prompt = None
    stream: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        """Refuse an array of mixed kinds, which the type above cannot. msgspec makes this a ValidationError."""
        _refuse_mixed(self.input, "input")


class CompletionRequest(Struct, gc=False):
    """The body of POST /v1/completions, as far as Sentinel decides on it."""

    model: ModelName
    prompt: Prompt = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    n: ChoiceCount | None = None
    best_of: ChoiceCount | None = None
    echo: bool | None = None

    def __post_init__(self) -> None:
        """Refuse an array of mixed kinds, which the type above cannot. msgspec makes this a ValidationError."""
        _refuse_mixed(self.prompt, "prompt")

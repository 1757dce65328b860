"""The chat requests that can be translated: every field and every value that has a place in another format.

What is called a hint here changes nothing of what the model is asked, and is left out (docs/translation.md).
Source: OpenAI's API reference, "Create chat completion"; `reasoning_content` is DeepSeek's and vLLM's,
`thinking_blocks` LiteLLM's, `extra_content` Google's.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Raw, Struct

from sentinel.proxy.translation.strict import unsupported

Nothing: TypeAlias = tuple[()] | None
"""SDKs send back what they were sent, and an empty list asks for nothing."""
Zero = Annotated[float, Meta(ge=0, le=0)]

_DATA: Final = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+);base64,(?P<data>.*)", re.DOTALL)
_WEB: Final = ("https://", "http://")


class _Strict(Struct, forbid_unknown_fields=True, gc=False):
    pass


class _Part(_Strict, tag_field="type"):
    pass


class Text(_Part, tag="text"):
    text: str
    cache_control: Raw = Raw()


class ImageURL(_Strict):
    url: str
    detail: Literal["auto", "high"] | None = None


class Image(_Part, tag="image_url"):
    image_url: ImageURL
    cache_control: Raw = Raw()


class FileData(_Strict):
    file_data: str
    filename: str | None = None


class File(_Part, tag="file"):
    file: FileData


class Refusal(_Part, tag="refusal"):
    refusal: str


class Thinking(_Part, tag="thinking"):
    thinking: str
    signature: str = ""


class RedactedThinking(_Part, tag="redacted_thinking"):
    data: str


class FunctionCall(_Strict):
    """What OpenAI's SDK has made of its arguments is a hint."""

    name: str
    arguments: str
    parsed_arguments: Raw = Raw()


class OfGoogle(_Strict):
    thought_signature: str


class ExtraContent(_Strict):
    google: OfGoogle


class Call(_Strict):
    """Its index is a hint, left over from a stream."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None
    extra_content: ExtraContent | None = None


class _Message(_Strict, tag_field="role"):
    pass


class System(_Message, tag="system"):
    content: str | list[Text]
    name: None = None


class Developer(_Message, tag="developer"):
    content: str | list[Text]
    name: None = None


class User(_Message, tag="user"):
    content: str | list[Text | Image | File]
    name: None = None


class Assistant(_Message, tag="assistant"):
    """Reasoning without a signature is a hint: no provider takes it back, and models of that kind do without it.

    What OpenAI's SDK has made of the content (`parsed`) is one, too.
    """

    content: str | list[Text | Refusal] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    thinking_blocks: list[Thinking | RedactedThinking] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: Nothing = None
    audio: None = None
    function_call: None = None
    parsed: Raw = Raw()
    name: None = None


class Tool(_Message, tag="tool"):
    """Its name is a hint: the call with this id has it."""

    tool_call_id: str
    content: str | list[Text]
    name: str | None = None


Message: TypeAlias = System | Developer | User | Assistant | Tool


class Function(_Strict):
    name: str
    description: str | None = None
    parameters: Raw = Raw()
    strict: bool | None = None


class FunctionTool(_Part, tag="function"):
    function: Function
    cache_control: Raw = Raw()


class FunctionName(_Strict):
    name: str


class NamedChoice(_Part, tag="function"):
    function: FunctionName


class StreamOptions(_Strict):
    """Obfuscation is a hint: it pads events."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(_Part, tag="text"):
    pass


class ObjectFormat(_Part, tag="json_object"):
    pass


class Schema(_Strict):
    """Its name is a hint. A schema always holds at the other providers, so `strict` asks for nothing more."""

    name: str
    schema: Raw
    strict: bool | None = None
    description: None = None


class SchemaFormat(_Part, tag="json_schema"):
    json_schema: Schema


class ChatRequest(_Strict, kw_only=True):
    """What all other formats can be asked. Labels, caches' keys and the like are hints: what is said stays the same."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    logit_bias: Annotated[dict[str, Any], Meta(max_length=0)] | None = None
    modalities: tuple[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    audio: None = None
    prediction: None = None
    functions: None = None
    function_call: None = None
    web_search_options: None = None

    @property
    def output_max(self) -> int | None:
        """The most tokens that may be generated: the lower one, where both fields say so."""
        return min(filter(None, (self.max_tokens, self.max_completion_tokens)), default=None)

    @property
    def stops(self) -> list[str]:
        """The texts at which generation stops."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def wants_usage(self) -> bool:
        """Whether the client of a stream is told its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


def data_url(url: str) -> tuple[str, str] | None:
    """The media type and the base64 of a `data:` URL; None for any other."""
    found = _DATA.fullmatch(url)
    return None if found is None else (found["type"], found["data"])


def web_url(url: str, param: str) -> str:
    """An address that a provider can fetch. Raises UnsupportedParameter, naming `param`."""
    if not url.startswith(_WEB):
        raise unsupported(param)
    return url

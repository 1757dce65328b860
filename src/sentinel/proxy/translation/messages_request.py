"""The requests in Anthropic's format that can be translated: every field and every value that has a place elsewhere.

What is called a hint here changes nothing of what the model is asked, and is left out (docs/translation.md).
Source: Anthropic's API reference, "Create a Message"; what Claude Code sends.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from sentinel.proxy.translation.chat_request import Nothing


class _Strict(Struct, forbid_unknown_fields=True, gc=False):
    pass


class _Typed(_Strict, tag_field="type"):
    pass


class CacheControl(_Typed, tag="ephemeral"):
    """A hint: what may be cached costs less, and says the same."""

    ttl: Literal["5m", "1h"] | None = None
    scope: str | None = None


class Text(_Typed, tag="text"):
    """What Anthropic's SDK has made of it (`parsed_output`) is a hint."""

    text: str
    parsed_output: Raw = Raw()
    cache_control: CacheControl | None = None
    citations: Nothing = None


class Base64(_Typed, tag="base64"):
    media_type: str
    data: str


class Web(_Typed, tag="url"):
    url: str


class PlainText(_Typed, tag="text"):
    data: str
    media_type: Literal["text/plain"] = "text/plain"


class Image(_Typed, tag="image"):
    source: Base64 | Web
    cache_control: CacheControl | None = None


class Citations(_Strict):
    enabled: Literal[False] | None = None


class Document(_Typed, tag="document"):
    source: Base64 | PlainText
    title: str | None = None
    citations: Citations | None = None
    context: None = None
    cache_control: CacheControl | None = None


class ToolReference(_Typed, tag="tool_reference"):
    """A tool whose loading was deferred, and that may be called from here on."""

    tool_name: str
    cache_control: CacheControl | None = None


class ToolResult(_Typed, tag="tool_result"):
    tool_use_id: str
    content: str | list[Text | Image | ToolReference] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


class Caller(_Typed, tag="direct"):
    """The model itself, and no code that it has written."""


class ToolUse(_Typed, tag="tool_use"):
    id: str
    name: str
    input: Raw
    caller: Caller | None = None
    cache_control: CacheControl | None = None
    toolset_name: None = None


class Thinking(_Typed, tag="thinking"):
    """A hint: earlier thinking is no part of a chat, and signed for the provider that thought it."""

    thinking: str
    signature: str = ""


class RedactedThinking(_Typed, tag="redacted_thinking"):
    """As `Thinking`."""

    data: str


class _Message(_Strict, tag_field="role"):
    pass


UserBlock: TypeAlias = Text | Image | Document | ToolResult


class User(_Message, tag="user"):
    content: str | list[UserBlock]


class Assistant(_Message, tag="assistant"):
    content: str | list[Text | ToolUse | Thinking | RedactedThinking]


class System(_Message, tag="system"):
    content: str | list[Text]


Message: TypeAlias = User | Assistant | System


class Tool(_Strict):
    """How its arguments are streamed is a hint."""

    name: str
    input_schema: Raw
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    input_examples: Nothing = None


class _Choice(_Typed):
    disable_parallel_tool_use: bool | None = None


class AutoChoice(_Choice, tag="auto"):
    pass


class AnyChoice(_Choice, tag="any"):
    pass


class NoChoice(_Typed, tag="none"):
    pass


class NamedChoice(_Choice, tag="tool", kw_only=True):
    name: str


class _Thinks(_Typed):
    display: Literal["summarized", "omitted"] | None = None


class BudgetedThinking(_Thinks, tag="enabled", kw_only=True):
    budget_tokens: int


class AdaptiveThinking(_Thinks, tag="adaptive"):
    pass


class NoThinking(_Typed, tag="disabled"):
    pass


class SchemaFormat(_Typed, tag="json_schema"):
    schema: Raw


class OutputConfig(_Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: SchemaFormat | None = None


class Metadata(_Strict):
    user_id: str | None = None


class ClearThinking(_Typed, tag="clear_thinking_20251015"):
    """A hint: no earlier thinking is sent on."""

    keep: Raw = Raw()


class ContextManagement(_Strict):
    edits: list[ClearThinking] | None = None


class MessagesRequest(_Strict, kw_only=True):
    """Diagnostics, which compare a cache's hits, are a hint."""

    model: str
    max_tokens: int
    messages: list[Message]
    system: str | list[Text] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: None = None
    tools: list[Tool] | None = None
    tool_choice: AutoChoice | AnyChoice | NoChoice | NamedChoice | None = None
    thinking: BudgetedThinking | AdaptiveThinking | NoThinking | None = None
    output_config: OutputConfig | None = None
    output_format: SchemaFormat | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    speed: Literal["standard"] | None = None
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    diagnostics: Raw = Raw()
    container: None = None
    inference_geo: None = None
    mcp_servers: Nothing = None

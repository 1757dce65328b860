"""What Sentinel decodes of a request in Gemini's format. Everything else in the body is forwarded untouched.

Google reads JSON as protocol buffers do: each field has two names (`maxOutputTokens`, `max_output_tokens`), null is as
good as nothing, and one thing may stand where a list of them is expected. Both names of one field in one object are
refused where they are decided on: nobody knows which of the two counts. Of parts all fields are kept, as JSON: what is
counted of them is told in gemini.py.
Source: Google's API reference, "GenerateContent", "Embeddings", "Counting tokens"; protobuf.dev, "ProtoJSON Format".
"""

from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct, field

from sentinel.tokens.request import TokenLimit

_NULL = Raw(b"null")
_text = msgspec.json.Decoder(str | None)


def _merge(struct: Any, *names: str) -> None:
    """One value for each field that has two names. Raises ValueError where both are given."""
    for name in names:
        other = getattr(struct, f"also_{name}")
        if _is_there(other):
            if _is_there(getattr(struct, name)):
                raise ValueError(f"Expected one name of `{name}`, and both are there")
            setattr(struct, name, other)
            setattr(struct, f"also_{name}", Raw() if isinstance(other, Raw) else None)


def _is_there(value: Any) -> bool:
    return value is not None and value != Raw() and value != _NULL


class Content(Struct, gc=False):
    """A turn of a conversation, or what stands before it."""

    parts: list[dict[str, Raw]] | dict[str, Raw] | None = None

    def __post_init__(self) -> None:
        """Refuse texts that are none. msgspec makes this a ValidationError."""
        for raw in (part["text"] for part in self.listed if "text" in part):
            try:
                text_of(raw)
            except msgspec.DecodeError as error:
                raise ValueError("Expected a string in the field `text` of each part") from error

    @property
    def listed(self) -> list[dict[str, Raw]]:
        """Its parts, also where there is one."""
        return [self.parts] if isinstance(self.parts, dict) else self.parts or []


def text_of(raw: Raw) -> str:
    """The text of a part. Raises msgspec.DecodeError for what is none."""
    return _text.decode(raw) or ""


Contents: TypeAlias = list[Content] | Content | None


def listed(contents: Contents) -> list[Content]:
    """All of them, also where there is one."""
    return [contents] if isinstance(contents, Content) else contents or []


class ThinkingConfig(Struct, gc=False, rename="camel"):
    """Whether a model is to think before it speaks. thinking_budget: tokens; 0 = not at all, -1 = as it likes."""

    thinking_budget: int | None = None
    also_thinking_budget: int | None = field(default=None, name="thinking_budget")

    def __post_init__(self) -> None:
        """Take the fields under either name."""
        _merge(self, "thinking_budget")


class GenerationConfig(Struct, gc=False, rename="camel"):
    """How an answer is to be generated, as far as Sentinel decides on it."""

    max_output_tokens: TokenLimit | None = None
    also_max_output_tokens: TokenLimit | None = field(default=None, name="max_output_tokens")
    candidate_count: TokenLimit | None = None
    also_candidate_count: TokenLimit | None = field(default=None, name="candidate_count")
    thinking_config: ThinkingConfig | None = None
    also_thinking_config: ThinkingConfig | None = field(default=None, name="thinking_config")
    response_schema: Raw = Raw()
    also_response_schema: Raw = field(default=Raw(), name="response_schema")
    response_json_schema: Raw = Raw()
    also_response_json_schema: Raw = field(default=Raw(), name="response_json_schema")

    def __post_init__(self) -> None:
        """Take the fields under either name."""
        _merge(self, "max_output_tokens", "candidate_count", "thinking_config")
        _merge(self, "response_schema", "response_json_schema")


class GenerateBody(Struct, gc=False, rename="camel"):
    """The body of `:generateContent` and `:streamGenerateContent`."""

    contents: Contents = None
    model: str | None = None
    system_instruction: Content | None = None
    also_system_instruction: Content | None = field(default=None, name="system_instruction")
    tools: Raw = Raw()
    tool_config: Raw = Raw()
    also_tool_config: Raw = field(default=Raw(), name="tool_config")
    generation_config: GenerationConfig | None = None
    also_generation_config: GenerationConfig | None = field(default=None, name="generation_config")

    def __post_init__(self) -> None:
        """Take the fields under either name."""
        _merge(self, "system_instruction", "tool_config", "generation_config")

    @property
    def config(self) -> GenerationConfig:
        """How the answer is to be generated, said or not."""
        return self.generation_config or GenerationConfig()


class CountBody(Struct, gc=False, rename="camel"):
    """The body of `:countTokens`: a conversation, or all of a request."""

    contents: Contents = None
    model: str | None = None
    generate_content_request: GenerateBody | None = None
    also_generate_content_request: GenerateBody | None = field(default=None, name="generate_content_request")

    def __post_init__(self) -> None:
        """Take the fields under either name."""
        _merge(self, "generate_content_request")


class EmbedBody(Struct, gc=False):
    """The body of `:embedContent`, and each of those in that of `:batchEmbedContents`."""

    content: Content | None = None
    model: str | None = None
    title: str | None = None


class BatchBody(Struct, gc=False):
    """The body of `:batchEmbedContents`."""

    requests: list[EmbedBody] | EmbedBody | None = None
    model: str | None = None

    @property
    def listed(self) -> list[EmbedBody]:
        """All of them, also where there is one."""
        return [self.requests] if isinstance(self.requests, EmbedBody) else self.requests or []

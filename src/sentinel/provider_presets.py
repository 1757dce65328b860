"""What each type of provider, and each provider that speaks OpenAI's API, does by default. Decides.

To add a provider that speaks OpenAI's API, add a line here, with the document that says so.
"""

from __future__ import annotations

from dataclasses import dataclass

_OPENAI = ("chat", "completions", "embeddings", "responses", "other")
_ALL = ("chat", "completions", "embeddings", "responses", "messages", "gemini", "other")
_OF_SERVERS = ("chat", "completions", "embeddings", "responses", "messages")


@dataclass(frozen=True, slots=True)
class Preset:
    """What one does. source: where that is told. url: None = it must be given.

    formats: that it speaks by default; can_speak: all that there may be.
    max_tokens_field: what a maximum is called that we add, and that a client's is renamed to. stream_usage: it knows
    `stream_options`, or lets it be. knows_both: names of the maximum, so that the client's may stay.
    """

    source: str
    url: str | None = None
    formats: tuple[str, ...] = ("chat", "completions", "embeddings")
    can_speak: tuple[str, ...] = _ALL
    max_tokens_field: str = "max_tokens"
    stream_usage: bool = True
    needs_key: bool = True
    knows_both: bool = False


TYPES: dict[str, Preset] = {
    "openai": Preset(
        "platform.openai.com/docs/api-reference",
        "https://api.openai.com/v1",
        _OPENAI,
        max_tokens_field="max_completion_tokens",
        knows_both=True,
    ),
    "azure": Preset(
        "learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle",
        None,
        _OPENAI,
        _OPENAI,
        max_tokens_field="max_completion_tokens",
        knows_both=True,
    ),
    "anthropic": Preset(
        "platform.claude.com/docs/en/api/openai-sdk",
        "https://api.anthropic.com",
        ("messages", "chat"),
        ("messages", "chat", "other"),
        max_tokens_field="max_completion_tokens",
        knows_both=True,
    ),
    "gemini": Preset(
        "ai.google.dev/api/compatibility",
        "https://generativelanguage.googleapis.com",
        ("gemini", "chat", "embeddings"),
        ("gemini", "chat", "embeddings"),
        max_tokens_field="max_completion_tokens",
        knows_both=True,
    ),
    "compatible": Preset("any server that speaks OpenAI's API", needs_key=False, knows_both=True),
}
"""By `type`."""

PRESETS: dict[str, Preset] = {
    "vllm": Preset(
        "docs.vllm.ai/en/stable/serving/openai_compatible_server",
        formats=_OF_SERVERS,
        max_tokens_field="max_completion_tokens",
        knows_both=True,
        needs_key=False,
    ),
    # Its structs have max_tokens alone (ollama/ollama, openai/openai.go): a client's other name would be no maximum.
    "ollama": Preset(
        "docs.ollama.com/api/openai-compatibility", "http://localhost:11434/v1", _OF_SERVERS, needs_key=False
    ),
    # It has known max_completion_tokens for some time (tools/server/server-task.cpp); max_tokens always.
    "llama.cpp": Preset(
        "github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md", formats=_OF_SERVERS, needs_key=False
    ),
    # Usage always comes, and `stream_options` has no effect.
    "openrouter": Preset(
        "openrouter.ai/docs/api-reference/overview",
        "https://openrouter.ai/api/v1",
        _OF_SERVERS,
        max_tokens_field="max_completion_tokens",
        knows_both=True,
    ),
    "groq": Preset(
        "console.groq.com/docs/openai",
        "https://api.groq.com/openai/v1",
        ("chat", "responses", "other"),
        max_tokens_field="max_completion_tokens",
        knows_both=True,
    ),
    # It answers 422 to `stream_options` (avante.nvim#2347) and max_completion_tokens (eca#231), and always tells usage.
    "mistral": Preset("docs.mistral.ai/api", "https://api.mistral.ai/v1", ("chat", "embeddings"), stream_usage=False),
    # Completions are at another address (/beta), Anthropic's format, too (/anthropic): a provider each, of its own.
    "deepseek": Preset("api-docs.deepseek.com/api/create-chat-completion", "https://api.deepseek.com/v1", ("chat",)),
    # Some of its models tell usage only where they are asked to (vercel/ai#17986).
    "together": Preset("docs.together.ai/docs/inference/openai-compatibility", "https://api.together.ai/v1"),
    # bedrock-runtime and bedrock-mantle alike; the first has its paths below /openai/v1.
    "bedrock": Preset(
        "docs.aws.amazon.com/bedrock/latest/userguide/inference-chat-completions.html",
        formats=("chat", "responses"),
        max_tokens_field="max_completion_tokens",
        knows_both=True,
    ),
    # What it does not know it lets be, `stream_options` among it.
    "vertex": Preset(
        "docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/call-vertex-using-openai-library",
        formats=("chat",),
        max_tokens_field="max_completion_tokens",
        knows_both=True,
    ),
}
"""By `preset`, of type `compatible`."""

_SYSTEMS = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "compatible": "openai",
    "mistral": "mistral_ai",
    "bedrock": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
}


def system_of(type_: str, preset: str | None) -> str:
    """What OpenTelemetry's conventions for GenAI call a provider; one that has no name there is what it speaks."""
    name = preset or type_
    return _SYSTEMS.get(name, name)

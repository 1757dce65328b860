"""How much a model can answer, and whether it thinks unseen. Two tables, no rules."""

from functools import lru_cache
from typing import Final

from sentinel.tokens.models import MAX_NAME_CHARS, longest_match

# For a model that nobody published anything about: the smallest ceiling that OpenAI's chat models ever had.
UNKNOWN_CEILING_TOKENS: Final = 4_096

# What POST /v1/completions generates when the client names no `max_tokens`.
# Source: OpenAI API reference, "Create completion", max_tokens: "Defaults to 16".
COMPLETION_DEFAULT_TOKENS: Final = 16

# The longest answer, and the context window that prompt and answer share.
# Source: https://platform.openai.com/docs/models, each model's page.
_BOUNDS: Final = {
    "gpt-3.5*": (4_096, 16_385),
    "gpt-35*": (4_096, 16_385),
    "gpt-3.5-turbo-0301": (4_096, 4_096),
    "gpt-3.5-turbo-0613": (4_096, 4_096),
    "gpt-3.5-turbo-instruct": (4_096, 4_096),
    "gpt-4": (8_192, 8_192),
    "gpt-4-32k": (8_192, 32_768),
    "gpt-4-turbo": (4_096, 128_000),
    "gpt-4-1106": (4_096, 128_000),
    "gpt-4-0125": (4_096, 128_000),
    "gpt-4-vision": (4_096, 128_000),
    "gpt-4o": (16_384, 128_000),
    "gpt-4o-2024-05-13": (4_096, 128_000),
    "chatgpt-4o": (16_384, 128_000),
    "gpt-4.1": (32_768, 1_047_576),
    "gpt-4.5": (16_384, 128_000),
    "gpt-5*": (128_000, 400_000),
    "gpt-5-pro": (272_000, 400_000),
    "gpt-5-chat": (16_384, 128_000),
    "gpt-5.1-chat": (16_384, 128_000),
    "gpt-5.2-chat": (16_384, 128_000),
    "gpt-5.3-chat": (16_384, 128_000),
    "gpt-oss": (131_072, 131_072),
    "o1": (100_000, 200_000),
    "o1-mini": (65_536, 128_000),
    "o1-preview": (32_768, 128_000),
    "o3": (100_000, 200_000),
    "o4": (100_000, 200_000),
    "codex-mini": (100_000, 200_000),
    # Google's pages have what may be asked and what may be answered apart (ai.google.dev/gemini-api/docs/models).
    "gemini-1.5": (8_192, 2_105_344),
    "gemini-2.0": (8_192, 1_056_768),
    "gemini-*": (65_536, 1_114_112),
    "davinci-002": (16_384, 16_384),
    "babbage-002": (16_384, 16_384),
}

# Reasoning models spend output tokens that no client sees; their bill exceeds the text that was delivered.
_HIDES: Final = {
    "o1": True,
    "o3": True,
    "o4": True,
    "gpt-5*": True,
    "gpt-5-chat": False,
    "codex-mini": True,
    # From 2.5 on; the small ones think where they are asked to.
    "gemini-*": True,
    "gemini-1.5": False,
    "gemini-2.0": False,
    "gemini-2.5-flash-lite": False,
    "gemini-embedding": False,
}


@lru_cache(maxsize=1024)
def _bounds(name: str) -> tuple[int, int]:
    return longest_match(_BOUNDS, name, (0, 0))


@lru_cache(maxsize=1024)
def _hides(name: str) -> bool:
    return longest_match(_HIDES, name, False)


def is_known(model: str) -> bool:
    """Say whether it is published how much `model` can answer."""
    return _bounds(model[:MAX_NAME_CHARS])[0] > 0


def output_ceiling(model: str, prompt_tokens: int = 0) -> int:
    """Return the most output tokens one choice of `model` can have after such a prompt, hidden reasoning included.

    At least 1: a prompt that fills the context window is the provider's to refuse.
    Source: the model pages of OpenAI and Google, "max output tokens" of each model and its context window; unknown
    models: UNKNOWN_CEILING_TOKENS.
    """
    ceiling, context = _bounds(model[:MAX_NAME_CHARS])
    return max(1, min(ceiling, context - prompt_tokens)) if ceiling else UNKNOWN_CEILING_TOKENS


def hides_output(model: str) -> bool:
    """Say whether `model` bills output tokens that it does not show (o-series, gpt-5 but not gpt-5-chat, Gemini).

    For these our own count of a broken stream is a lower bound.
    Source: OpenAI's guide "Reasoning models": reasoning tokens are not visible and are billed as output tokens.
    Google's guide "Thinking": the same of thoughts, of which summaries are shown at most.
    """
    return _hides(model[:MAX_NAME_CHARS])

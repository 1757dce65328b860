"""The usage that a provider reports, read around what does not fit and put together from its pieces.

Rules (DESIGN section 5): larger numbers win, zeros and absences tell nothing, and output is what the total leaves
beside the input where that is more: some providers count reasoning in the total alone (vercel/ai#12425).
"""

from typing import Any, Final

from msgspec import Struct

MOST_TOKENS: Final = 2**53
"""A number beyond this is a broken provider; refusing it keeps every sum exact in Lua (doubles), too."""


class Usage(Struct, frozen=True, gc=False):
    """The provider's own count, in tokens; 0 for what it does not tell.

    cached_tokens and cache_write_tokens are part of the input, reasoning_tokens of the output. adds_cache: the provider
    tells them beside its input, so its three figures are merged each by itself, and the input is their sum.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    adds_cache: bool = False

    @property
    def uncached_tokens(self) -> int:
        """The input that was neither read from a cache nor written to one."""
        return max(0, self.prompt_tokens - self.cached_tokens - self.cache_write_tokens)

    @property
    def output_tokens(self) -> int:
        """What was generated, reasoning included; 0 where usage does not tell."""
        if not self.prompt_tokens:
            return self.completion_tokens
        return max(self.completion_tokens, self.total_tokens - self.prompt_tokens)

    def merged(self, other: "Usage") -> "Usage":
        """What both tell together, field by field: usage comes in pieces, or grows all along."""
        prompt, adds_cache = max(self.prompt_tokens, other.prompt_tokens), self.adds_cache or other.adds_cache
        cached, written = (
            max(self.cached_tokens, other.cached_tokens),
            max(self.cache_write_tokens, other.cache_write_tokens),
        )
        if adds_cache:
            prompt = max(self.uncached_tokens, other.uncached_tokens) + cached + written
        return Usage(
            prompt,
            max(self.completion_tokens, other.completion_tokens),
            max(self.total_tokens, other.total_tokens),
            cached,
            written,
            max(self.reasoning_tokens, other.reasoning_tokens),
            adds_cache,
        )


NOTHING: Final = Usage()


def read_usage(value: Any) -> Usage:
    """Read a `usage` object as chat and completions have it, under whichever names (tokens/answer.py).

    A field that does not fit is as good as absent.
    """
    if not isinstance(value, dict):
        return NOTHING
    inputs = _object(value, "prompt_tokens_details") or _object(value, "input_tokens_details")
    outputs = _object(value, "completion_tokens_details") or _object(value, "output_tokens_details")
    return Usage(
        _tokens(value.get("prompt_tokens")) or _tokens(value.get("input_tokens")),
        _tokens(value.get("completion_tokens")) or _tokens(value.get("output_tokens")),
        _tokens(value.get("total_tokens")),
        # DeepSeek has a name of its own for it (api-docs.deepseek.com, "Context Caching").
        _tokens(inputs.get("cached_tokens")) or _tokens(value.get("prompt_cache_hit_tokens")),
        _tokens(inputs.get("cache_write_tokens")),
        _tokens(outputs.get("reasoning_tokens")),
    )


def read_usage_beside_cache(value: Any) -> Usage:
    """Read a `usage` object as Anthropic's messages have it: input_tokens is without what a cache had or got.

    Source: Anthropic's guide "Prompt caching", "Tracking cache performance": the input is the sum of the three.
    """
    if not isinstance(value, dict):
        return NOTHING
    plain, output = _tokens(value.get("input_tokens")), _tokens(value.get("output_tokens"))
    cached, written = (
        _tokens(value.get("cache_read_input_tokens")),
        _tokens(value.get("cache_creation_input_tokens")),
    )
    if not (plain or output or cached or written):
        return NOTHING
    reasoning = _tokens(_object(value, "output_tokens_details").get("thinking_tokens"))
    return Usage(plain + cached + written, output, 0, cached, written, reasoning, True)


def read_usage_metadata(value: Any) -> Usage:
    """Read `usageMetadata` as Gemini has it: the prompt includes what a cache had, the candidates exclude thoughts.

    What tools have brought into the prompt is input, and part of the total.
    Source: Google's API reference, "UsageMetadata"; DESIGN section 5.
    """
    if not isinstance(value, dict):
        return NOTHING
    prompt, of_tools, candidates, thoughts, total, cached = (
        _tokens(value.get(name)) or _tokens(value.get(other)) for name, other in _METADATA
    )
    return Usage(prompt + of_tools, candidates + thoughts, total, cached, 0, thoughts)


_METADATA: Final = (
    ("promptTokenCount", "prompt_token_count"),
    ("toolUsePromptTokenCount", "tool_use_prompt_token_count"),
    ("candidatesTokenCount", "candidates_token_count"),
    ("thoughtsTokenCount", "thoughts_token_count"),
    ("totalTokenCount", "total_token_count"),
    ("cachedContentTokenCount", "cached_content_token_count"),
)


def usage_beside(usage: Any, groq: Any, of_choices: list[Any]) -> Usage:
    """The usage of one event, from wherever providers put it.

    usage: the event's own. groq: its `x_groq`, where Groq's streams have it. of_choices: what its choices have, as
    Moonshot's do.
    """
    found = read_usage(usage)
    if isinstance(groq, dict):
        found = found.merged(read_usage(groq.get("usage")))
    for value in of_choices:
        found = found.merged(read_usage(value))
    return found


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _tokens(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
        return value
    return 0

"""The usage that a provider reports, read around what does not fit and put together from its pieces.

Rules (DESIGN section 5): larger numbers win, zeros and absences tell nothing, and output is what the total leaves
beside the input where that is more: some providers count reasoning in the total alone (vercel/ai#12425).
"""

from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal
from operator import add
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import astuple

MOST_TOKENS: Final = 2**53
"""A number beyond this is a broken provider; refusing it keeps every sum exact in Lua (doubles), too."""

UNTOLD: Final = -1
_MOST_USD: Final = 1000
"""A request that costs more is a broken provider's."""


class Details(Struct, frozen=True, gc=False):
    """What few usages tell, and prices ask for, in tokens: parts of the input, of what is cached, and of the output.

    written_1h: of what was written to a cache, what is to stay there for an hour.
    told_micro_usd: what it has cost, as the provider says; UNTOLD where it says nothing.
    """

    input_audio: int = 0
    input_image: int = 0
    input_video: int = 0
    cached_audio: int = 0
    cached_image: int = 0
    written_1h: int = 0
    output_audio: int = 0
    output_image: int = 0
    output_video: int = 0
    told_micro_usd: int = UNTOLD

    def merged(self, other: "Details") -> "Details":
        """What both tell together, field by field."""
        if other is PLAIN:
            return self
        return _details_from(map(max, astuple(self), astuple(other)))

    def plus(self, other: "Details") -> "Details":
        """What both come to. The sum has cost what is told only where both tell it."""
        *tokens, told = map(add, astuple(self), astuple(other))
        both = UNTOLD not in (self.told_micro_usd, other.told_micro_usd)
        return _details_from((*tokens, told if both else UNTOLD))


def _details_from(told: Iterable[int]) -> Details:
    """Details by their fields in order."""
    return Details(**dict(zip(Details.__struct_fields__, told, strict=True)))


PLAIN: Final = Details()


class Usage(Struct, frozen=True, gc=False):
    """The provider's own count, in tokens; 0 for what it does not tell.

    cached_tokens and cache_write_tokens are part of the input, reasoning_tokens of the output. adds_cache: the provider
    tells them beside its input, so its three figures are merged each by itself, and the input is their sum. details:
    PLAIN, that very one, where nothing of them is told.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    adds_cache: bool = False
    details: Details = PLAIN

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
            other.details if self.details is PLAIN else self.details.merged(other.details),
        )

    def plus(self, other: "Usage") -> "Usage":
        """What two answers have cost together; of each its output is what it comes to."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            0,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            details=PLAIN if self.details is other.details is PLAIN else self.details.plus(other.details),
        )


NOTHING: Final = Usage()


def read_usage(value: Any) -> Usage:
    """Read a `usage` object as chat and completions have it, under whichever names (tokens/answer.py).

    A field that does not fit is as good as absent.
    """
    if not isinstance(value, dict):
        return NOTHING
    # The last are those of realtime and of transcriptions.
    inputs = (
        _object(value, "prompt_tokens_details")
        or _object(value, "input_tokens_details")
        or _object(value, "input_token_details")
    )
    outputs = (
        _object(value, "completion_tokens_details")
        or _object(value, "output_tokens_details")
        or _object(value, "output_token_details")
    )
    return Usage(
        _tokens(value.get("prompt_tokens")) or _tokens(value.get("input_tokens")),
        _tokens(value.get("completion_tokens")) or _tokens(value.get("output_tokens")),
        _tokens(value.get("total_tokens")),
        # DeepSeek has a name of its own for it (api-docs.deepseek.com, "Context Caching").
        _tokens(inputs.get("cached_tokens")) or _tokens(value.get("prompt_cache_hit_tokens")),
        _tokens(inputs.get("cache_write_tokens")),
        _tokens(outputs.get("reasoning_tokens")),
        details=_details(inputs, outputs, value.get("cost")),
    )


def _details(inputs: dict[str, Any], outputs: dict[str, Any], cost: Any) -> Details:
    """Kinds of tokens as OpenAI's formats have them; of cached ones realtime alone tells the kinds."""
    # Most answers have none, and this is on the way of each of them.
    if cost is None and not (_has_kinds(inputs) or _has_kinds(outputs)):
        return PLAIN
    cached = _object(inputs, "cached_tokens_details")
    return details_of(
        input_audio=_tokens(inputs.get("audio_tokens")),
        input_image=_tokens(inputs.get("image_tokens")),
        input_video=_tokens(inputs.get("video_tokens")),
        cached_audio=_tokens(cached.get("audio_tokens")),
        cached_image=_tokens(cached.get("image_tokens")),
        output_audio=_tokens(outputs.get("audio_tokens")),
        output_image=_tokens(outputs.get("image_tokens")),
        output_video=_tokens(outputs.get("video_tokens")),
        told_micro_usd=micro_usd(cost),
    )


def _has_kinds(details: dict[str, Any]) -> bool:
    get = details.get
    return bool(get("audio_tokens") or get("image_tokens") or get("video_tokens"))


def details_of(**told: int) -> Details:
    """These details; PLAIN where nothing of them is told."""
    found = Details(**told)
    return PLAIN if found == PLAIN else found


def micro_usd(cost: Any) -> int:
    """A cost as OpenRouter has it in its usage, in dollars, or as Perplexity has it in an object; rounded up.

    Whether the provider means dollars is for who knows the provider. UNTOLD for what is none.
    """
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost <= _MOST_USD:
        return UNTOLD
    # As it was written: the shortest text that means this number.
    return int((Decimal(repr(cost)) * 10**6).to_integral_value(ROUND_CEILING))


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
    lasting = _tokens(_object(value, "cache_creation").get("ephemeral_1h_input_tokens"))
    details = Details(written_1h=lasting) if lasting else PLAIN
    return Usage(plain + cached + written, output, 0, cached, written, reasoning, True, details)


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
    return Usage(prompt + of_tools, candidates + thoughts, total, cached, 0, thoughts, details=_modalities(value))


def _modalities(value: dict[str, Any]) -> Details:
    """Kinds of tokens as Gemini has them; what tools have brought is input."""
    # Each event of a stream tells them, and as a rule all is text.
    for name in _KINDS_NAMES:
        if (told := value.get(name)) and not _is_text(told):
            break
    else:
        return PLAIN
    inputs = _of_kinds(value, "promptTokensDetails"), _of_kinds(value, "toolUsePromptTokensDetails")
    cached, outputs = _of_kinds(value, "cacheTokensDetails"), _of_kinds(value, "candidatesTokensDetails")
    return details_of(
        input_audio=sum(each.get("AUDIO", 0) for each in inputs),
        input_image=sum(each.get("IMAGE", 0) for each in inputs),
        input_video=sum(each.get("VIDEO", 0) for each in inputs),
        cached_audio=cached.get("AUDIO", 0),
        cached_image=cached.get("IMAGE", 0),
        output_audio=outputs.get("AUDIO", 0),
        output_image=outputs.get("IMAGE", 0),
        output_video=outputs.get("VIDEO", 0),
    )


_KINDS: Final = {
    "promptTokensDetails": "prompt_tokens_details",
    "toolUsePromptTokensDetails": "tool_use_prompt_tokens_details",
    "cacheTokensDetails": "cache_tokens_details",
    "candidatesTokensDetails": "candidates_tokens_details",
}
_KINDS_NAMES: Final = (*_KINDS, *_KINDS.values())


def _is_text(told: Any) -> bool:
    match told:
        case [{"modality": "TEXT"}]:
            return True
    return False


def _of_kinds(value: dict[str, Any], name: str) -> dict[str, int]:
    told = value.get(name) or value.get(_KINDS[name])
    return {
        str(each.get("modality")): _tokens(each.get("tokenCount")) or _tokens(each.get("token_count"))
        for each in (told if isinstance(told, list) else ())
        if isinstance(each, dict)
    }


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

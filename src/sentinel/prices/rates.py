"""What a usage costs at a price. Exact: there is no float in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from msgspec import Struct

from sentinel.tokens.usage import PLAIN, Usage

_SCALE_DIGITS: Final = 18
"""The data has prices with so many decimals. One of a million tokens is, in micro-USD, that of one token."""
_SCALE: Final = 10**_SCALE_DIGITS

MOST_COST_MICRO_USD: Final = 10**9
"""A thousand dollars for one request: a figure beyond is a broken provider's, and none."""

UNKNOWN: Final = -1


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars for a million tokens of each kind; None: not told, so FALLS_BACK_TO says what counts.

    cache_write_1h: what is to stay in a cache for an hour. Cached input is read from one.
    """

    input: Decimal | None = None
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    output: Decimal | None = None
    reasoning: Decimal | None = None
    input_audio: Decimal | None = None
    input_image: Decimal | None = None
    input_video: Decimal | None = None
    cached_audio: Decimal | None = None
    cached_image: Decimal | None = None
    output_audio: Decimal | None = None
    output_image: Decimal | None = None
    output_video: Decimal | None = None


FALLS_BACK_TO: Final[Mapping[str, str]] = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "reasoning": "output",
    "input_audio": "input",
    "input_image": "input",
    "input_video": "input",
    # Dearer than cached text mostly, where it is not told: no sum is below the bill.
    "cached_audio": "input_audio",
    "cached_image": "input_image",
    "output_audio": "output",
    "output_image": "output",
    "output_video": "output",
}


class Rates(Struct, frozen=True, gc=False):
    """A price with its gaps filled, for one token of each kind, in micro-USD times 10**18; UNKNOWN where none is told.

    is_whole: whether text is priced, in and out.
    """

    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int
    input_audio: int
    input_image: int
    input_video: int
    cached_audio: int
    cached_image: int
    output_audio: int
    output_image: int
    output_video: int
    is_whole: bool

    @classmethod
    def of(cls, price: Price) -> Rates:
        """The rates of a price. Raises ValueError for one that is below zero, no number, or has over 18 decimals."""
        rates = {name: _rate(name, price) for name in Price.__struct_fields__}
        return cls(**rates, is_whole=rates["input"] >= 0 and rates["output"] >= 0)


def _rate(name: str, price: Price) -> int:
    told: Decimal | None = getattr(price, name)
    if told is None:
        return _rate(FALLS_BACK_TO[name], price) if name in FALLS_BACK_TO else UNKNOWN
    if not told.is_finite() or told < 0:
        raise ValueError(f"{name} must be a number, and not below 0")
    _, digits, exponent = told.as_tuple()
    # Not by arithmetic of Decimal, which rounds.
    shift = _SCALE_DIGITS + int(exponent)
    if shift < 0:
        raise ValueError(f"{name} has more than {_SCALE_DIGITS} decimals")
    return int("".join(map(str, digits))) * int(10**shift)


class ModelPrice:
    """What a model costs. tiers: {input tokens: price}, each of which holds for inputs that are longer."""

    __slots__ = ("_base", "_tiers")

    def __init__(self, price: Price, tiers: Mapping[int, Price] | None = None) -> None:
        self._base = Rates.of(price)
        self._tiers = tuple((above, Rates.of(tier)) for above, tier in sorted((tiers or {}).items(), reverse=True))

    def cost(self, input_tokens: int, output_tokens: int, usage: Usage) -> int | None:
        """Micro-USD for so many tokens, rounded up; None where some of them have no price, or the sum is absurd.

        usage: what the provider tells of their kinds. Each kind is a part of the input or of the output, and no more
        than there is of it. Where nothing is told all of it is text.
        """
        rates = self._base
        for above, tier in self._tiers:
            if input_tokens > above:
                rates = tier
                break
        if usage.details is not PLAIN or not rates.is_whole:
            return _rounded(_sum_of_kinds(rates, input_tokens, output_tokens, usage))
        cached = min(usage.cached_tokens, input_tokens)
        written = min(usage.cache_write_tokens, input_tokens - cached)
        reasoning = min(usage.reasoning_tokens, output_tokens)
        return _rounded(
            (input_tokens - cached - written) * rates.input
            + cached * rates.cached_input
            + written * rates.cache_write
            + (output_tokens - reasoning) * rates.output
            + reasoning * rates.reasoning
        )


def _rounded(scaled: int | None) -> int | None:
    if scaled is None or scaled > MOST_COST_MICRO_USD * _SCALE:
        return None
    return -(-scaled // _SCALE)


def _sum_of_kinds(rates: Rates, input_tokens: int, output_tokens: int, usage: Usage) -> int | None:
    told = usage.details
    # The most special come first, and each kind takes what it may of what is left of those that it is a part of.
    cached_audio = min(told.cached_audio, told.input_audio, usage.cached_tokens)
    cached_image = min(told.cached_image, told.input_image, usage.cached_tokens - cached_audio)
    written_1h = min(told.written_1h, usage.cache_write_tokens)
    of_input = _parts(
        input_tokens,
        (
            (cached_audio, rates.cached_audio),
            (cached_image, rates.cached_image),
            (usage.cached_tokens - cached_audio - cached_image, rates.cached_input),
            (written_1h, rates.cache_write_1h),
            (usage.cache_write_tokens - written_1h, rates.cache_write),
            (told.input_audio - cached_audio, rates.input_audio),
            (told.input_image - cached_image, rates.input_image),
            (told.input_video, rates.input_video),
        ),
        rates.input,
    )
    of_output = _parts(
        output_tokens,
        (
            (told.output_audio, rates.output_audio),
            (told.output_image, rates.output_image),
            (told.output_video, rates.output_video),
            (usage.reasoning_tokens, rates.reasoning),
        ),
        rates.output,
    )
    return None if of_input is None or of_output is None else of_input + of_output


def _parts(tokens: int, parts: Sequence[tuple[int, int]], rate_of_rest: int) -> int | None:
    """What tokens cost of which these are parts; None where one that is there has no price."""
    total = 0
    for count, rate in (*parts, (tokens, rate_of_rest)):
        part = min(count, tokens)
        if part:
            if rate < 0:
                return None
            tokens -= part
            total += part * rate
    return total

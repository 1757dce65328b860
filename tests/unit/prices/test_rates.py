"""What a usage costs at a price: each kind of token, tiers, rounding; and the same by a simple model in Decimal."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from sentinel.prices.rates import FALLS_BACK_TO, MOST_COST_MICRO_USD, ModelPrice, Price
from sentinel.tokens.usage import MOST_TOKENS, Details, Usage

TEXT = Price(input=Decimal("2.5"), cached_input=Decimal("1.25"), output=Decimal(10))
ALL = Price(**{name: Decimal(1000 * 2**place + 7 * place + 1) for place, name in enumerate(Price.__struct_fields__)})
"""Each kind costs more than twice what the one before it does, so that a cost shows which of them were counted."""


@pytest.mark.parametrize(
    ("price", "tokens", "usage", "cost"),
    [
        (TEXT, (0, 0), {}, 0),
        (TEXT, (1000, 0), {}, 2500),
        (TEXT, (1000, 100), {}, 3500),
        (TEXT, (1000, 100), {"cached_tokens": 400}, 3000),
        (TEXT, (1000, 0), {"cached_tokens": 1000}, 1250),
        (TEXT, (1000, 0), {"cached_tokens": 5000}, 1250),
        (TEXT, (1000, 0), {"cache_write_tokens": 400}, 2500),
        (TEXT, (0, 100), {"reasoning_tokens": 60}, 1000),
        (TEXT, (1, 0), {}, 3),
        (TEXT, (2, 0), {}, 5),
        (TEXT, (3, 0), {"cached_tokens": 1}, 7),
        (Price(input=Decimal("0.00000000000000001")), (1, 0), {}, 1),
        (Price(input=Decimal(0), output=Decimal(0)), (1000, 1000), {}, 0),
        (Price(input=Decimal(1)), (5, 0), {}, 5),
        (Price(input=Decimal(1)), (5, 1), {}, None),
        (Price(output=Decimal(1)), (5, 1), {}, None),
        (Price(output=Decimal(1)), (0, 1), {}, 1),
        (Price(), (5, 1), {}, None),
        (Price(), (0, 0), {}, 0),
        (Price(input=Decimal(1), output=Decimal(1)), (MOST_TOKENS, 1), {}, None),
        (Price(input=Decimal(MOST_COST_MICRO_USD), output=Decimal(1)), (1, 0), {}, MOST_COST_MICRO_USD),
        (Price(input=Decimal(MOST_COST_MICRO_USD), output=Decimal(1)), (1, 1), {}, None),
    ],
)
def test_what_text_costs(price: Price, tokens: tuple[int, int], usage: dict[str, Any], cost: int | None) -> None:
    """Cached and written input, and reasoning, are parts; all is rounded up once; what has no price has no cost."""
    assert ModelPrice(price).cost(*tokens, Usage(**usage)) == cost


@pytest.mark.parametrize(
    ("usage", "details", "parts"),
    [
        ({"cached_tokens": 2, "cache_write_tokens": 3}, {}, {"input": 2, "cached_input": 2, "cache_write": 3}),
        ({"cache_write_tokens": 5}, {"written_1h": 2}, {"input": 2, "cache_write": 3, "cache_write_1h": 2}),
        ({"cache_write_tokens": 1}, {"written_1h": 2}, {"input": 6, "cache_write_1h": 1}),
        (
            {},
            {"input_audio": 1, "input_image": 2, "input_video": 3},
            {"input": 1, "input_audio": 1, "input_image": 2, "input_video": 3},
        ),
        (
            {"cached_tokens": 5},
            {"input_audio": 4, "cached_audio": 3},
            {"input": 1, "input_audio": 1, "cached_audio": 3, "cached_input": 2},
        ),
        (
            {"cached_tokens": 2},
            {"input_image": 4, "cached_image": 1},
            {"input": 2, "input_image": 3, "cached_image": 1, "cached_input": 1},
        ),
        ({"cached_tokens": 2}, {"cached_audio": 2}, {"input": 5, "cached_input": 2}),
        ({}, {"input_audio": 99}, {"input_audio": 7}),
    ],
)
def test_each_kind_of_input_costs_its_own(
    usage: dict[str, Any], details: dict[str, int], parts: dict[str, int]
) -> None:
    """Of seven tokens; none is counted twice, and no part is more than there is."""
    found = ModelPrice(ALL).cost(7, 0, Usage(**usage, details=Details(**details)))
    assert found == sum(int(asdict(ALL)[name]) * count for name, count in parts.items())


@pytest.mark.parametrize(
    ("reasoning", "details", "parts"),
    [
        (2, {}, {"output": 5, "reasoning": 2}),
        (2, {"output_audio": 3}, {"output": 2, "reasoning": 2, "output_audio": 3}),
        (0, {"output_image": 3, "output_video": 1}, {"output": 3, "output_image": 3, "output_video": 1}),
        (9, {"output_image": 5}, {"reasoning": 2, "output_image": 5}),
    ],
)
def test_each_kind_of_output_costs_its_own(reasoning: int, details: dict[str, int], parts: dict[str, int]) -> None:
    """Of seven tokens."""
    found = ModelPrice(ALL).cost(0, 7, Usage(reasoning_tokens=reasoning, details=Details(**details)))
    assert found == sum(int(asdict(ALL)[name]) * count for name, count in parts.items())


def test_kinds_without_a_price_have_none() -> None:
    """Where neither they nor the kind above them has one; others are priced all the same."""
    price = ModelPrice(Price(input=Decimal(1), output_image=Decimal(30)))
    assert price.cost(5, 3, Usage(details=Details(output_image=3))) == 95
    assert price.cost(5, 4, Usage(details=Details(output_image=3))) is None
    assert ModelPrice(Price(output=Decimal(1))).cost(1, 1, Usage(details=Details(output_audio=1))) is None


def test_a_tier_holds_for_all_tokens_of_a_longer_input() -> None:
    """Whatever part of it was cached; not for one that is as long as where the tier begins."""
    price = ModelPrice(
        TEXT, {300: Price(input=Decimal(100), output=Decimal(0)), 200: Price(input=Decimal(5), output=Decimal(20))}
    )
    assert price.cost(200, 10, Usage()) == 600
    assert price.cost(201, 10, Usage()) == 1205
    assert price.cost(300, 10, Usage(cached_tokens=299)) == 1700
    assert price.cost(301, 10, Usage()) == 30100


@pytest.mark.parametrize("price", ["-1", "NaN", "Infinity", "0.0000000000000000001"])
def test_a_price_that_is_none_is_refused(price: str) -> None:
    """And the kind of token is named."""
    with pytest.raises(ValueError, match=r"^cache_write "):
        ModelPrice(Price(cache_write=Decimal(price)))


prices = st.none() | st.decimals(0, 1000, places=6)
tokens = st.integers(0, 10**7)
usages = st.builds(
    Usage,
    cached_tokens=tokens,
    cache_write_tokens=tokens,
    reasoning_tokens=tokens,
    details=st.builds(
        Details, **dict.fromkeys((f for f in Details.__struct_fields__ if f != "told_micro_usd"), tokens)
    ),
)


def rate(price: Price, name: str) -> Fraction | None:
    told: Any = getattr(price, name)
    if told is not None:
        return Fraction(told)
    return rate(price, FALLS_BACK_TO[name]) if name in FALLS_BACK_TO else None


@given(st.builds(Price, **dict.fromkeys(Price.__struct_fields__, prices)), tokens, tokens, usages)
def test_the_same_by_a_simple_model(price: Price, inputs: int, outputs: int, usage: Usage) -> None:
    """Each token by itself gets the most special price that it may have, in fractions."""
    told = usage.details
    cached_audio = min(told.cached_audio, told.input_audio, usage.cached_tokens)
    cached_image = min(told.cached_image, told.input_image, usage.cached_tokens - cached_audio)
    lasting = min(told.written_1h, usage.cache_write_tokens)
    wanted = [
        ("cached_audio", cached_audio),
        ("cached_image", cached_image),
        ("cached_input", usage.cached_tokens - cached_audio - cached_image),
        ("cache_write_1h", lasting),
        ("cache_write", usage.cache_write_tokens - lasting),
        ("input_audio", told.input_audio - cached_audio),
        ("input_image", told.input_image - cached_image),
        ("input_video", told.input_video),
        ("input", inputs),
    ]
    wanted_of_output = [
        ("output_audio", told.output_audio),
        ("output_image", told.output_image),
        ("output_video", told.output_video),
        ("reasoning", usage.reasoning_tokens),
        ("output", outputs),
    ]
    total: Fraction | None = Fraction(0)
    for tokens_of_it, kinds in ((inputs, wanted), (outputs, wanted_of_output)):
        left = tokens_of_it
        for name, count in kinds:
            part = min(left, count)
            left -= part
            each = rate(price, name)
            if part:
                total = None if total is None or each is None else total + part * each
    expected = None if total is None else -(-total.numerator // total.denominator)
    if expected is not None and expected > MOST_COST_MICRO_USD:
        expected = None
    assert ModelPrice(price).cost(inputs, outputs, usage) == expected


@given(st.builds(Price, input=st.decimals(0, 1000, places=6), output=st.decimals(0, 1000, places=6)), tokens, tokens)
def test_text_costs_what_decimals_say(price: Price, inputs: int, outputs: int) -> None:
    """The usual request, by another arithmetic."""
    assert price.input is not None
    assert price.output is not None
    with localcontext() as context:
        context.prec = 60
        told = int((inputs * price.input + outputs * price.output).to_integral_value(ROUND_CEILING))
    found = ModelPrice(price).cost(inputs, outputs, Usage())
    assert found == (told if told <= MOST_COST_MICRO_USD else None)

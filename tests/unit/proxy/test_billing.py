"""What an exchange costs, row by row of the table in billing.py."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel.limits.policy import Cost
from sentinel.prices.catalog import Catalog
from sentinel.proxy.billing import SPENT_NOTHING, Spent, abandoned, at_limit, spent, streamed, unseen
from sentinel.tokens.usage import NOTHING, Usage, read_usage

TOLD = Usage(prompt_tokens=12, completion_tokens=40, cached_tokens=8, reasoning_tokens=30)


def test_a_whole_answer_costs_what_is_told() -> None:
    """Whatever we have counted; cached and reasoning tokens are parts of it."""
    found = spent(TOLD, 10, 99)
    assert (found.cost, found.source) == ((1, 12, 40), "provider")
    assert (found.usage.cached_tokens, found.usage.reasoning_tokens) == (8, 30)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [(NOTHING, (1, 10, 99)), (Usage(prompt_tokens=12), (1, 12, 99)), (Usage(completion_tokens=40), (1, 10, 40))],
    ids=["nothing", "input", "output"],
)
def test_what_is_not_told_is_counted(usage: Usage, tokens: tuple[int, int, int]) -> None:
    """Each by itself, and the source says that it is not the provider's word."""
    found = spent(usage, 10, 99)
    assert (found.cost, found.source) == (tokens, "count")


def test_a_client_that_left_before_the_answer_pays_for_its_input() -> None:
    """It was sent on; and for what may have been thought meanwhile."""
    assert abandoned(10, 0).cost == (1, 10, 0)
    assert abandoned(10, 7).cost == (1, 10, 7)


@pytest.mark.parametrize(
    ("delivered", "is_final", "ended_well", "left", "unseen_tokens", "output"),
    [
        (41, True, True, False, 500, 40),
        (41, False, True, False, 0, 41),
        (39, False, True, False, 0, 40),
        (-1, False, True, False, 0, 40),
        (5, False, False, False, 0, 40),
        (5, False, False, True, 500, 500),
        (5, False, False, True, 6, 40),
        (-1, False, False, True, 0, 40),
    ],
)
def test_a_stream_costs_the_largest_of_what_may_be_true(
    delivered: int, is_final: bool, ended_well: bool, left: bool, unseen_tokens: int, output: int
) -> None:
    """Usage that comes last is the last word; else nothing that was delivered, or thought, goes free."""
    found = streamed(TOLD, 10, delivered, is_final=is_final, ended_well=ended_well, left=left, unseen=unseen_tokens)
    assert found.cost == (1, 12, output)


def test_a_stream_that_breaks_before_anything_was_generated_costs_nothing() -> None:
    """Not even its input, whatever usage it told."""
    assert streamed(TOLD, 10, -1, is_final=False, ended_well=False, left=False, unseen=0) is SPENT_NOTHING


def test_a_stream_that_ends_at_a_limit_costs_what_was_delivered() -> None:
    """Its input is told or counted; what the provider went on to generate is not the client's."""
    assert at_limit(TOLD, 10, 5).cost == (1, 12, 5)
    assert at_limit(NOTHING, 10, 5).cost == (1, 10, 5)


def test_nobody_thinks_more_than_is_reserved() -> None:
    """400 tokens a second for each choice, within the reservation."""
    assert unseen(1.5, 1, 10_000) == 600
    assert unseen(1.5, 3, 10_000) == 1800
    assert unseen(1.5, 3, 1000) == 1000


MONEY = Catalog.ours()
NOW_MS = 1_796_000_000_000


def told(cost: Any) -> Usage:
    """Usage of an answer that says what it has cost."""
    return read_usage({"prompt_tokens": 1000, "completion_tokens": 200, "cost": cost})


@pytest.mark.parametrize(
    ("provider", "model", "found", "micro_usd"),
    [
        ("openai", "gpt-4o", spent(Usage(1000, 200, cached_tokens=100), 1, 1), 4375),
        ("openai", "gpt-4o", spent(NOTHING, 1000, 200), 4500),
        ("openai", "gpt-4o", spent(told(0.5), 1, 1), 4500),
        ("openai", "nobody-knows-it", spent(Usage(1000, 200), 1, 1), None),
        ("openai", "gpt-4o", SPENT_NOTHING, None),
        ("openai", "gpt-4o", Spent(Cost(1, 0, 0)), None),
        ("openrouter", "openai/gpt-4o", spent(told(0.0001231), 1, 1), 124),
        ("openrouter", "nobody-knows-it", spent(told(0), 1, 1), 0),
        ("openrouter", "openai/gpt-4o", spent(told("0.5"), 1, 1), 4500),
        ("openrouter", "openai/gpt-4o", spent(told(-1), 1, 1), 4500),
        ("openrouter", "openai/gpt-4o", spent(told(1e9), 1, 1), 4500),
        ("openrouter", "openai/gpt-4o", spent(told(True), 1, 1), 4500),
        ("openrouter", "openai/gpt-4o", at_limit(told(0.5), 1, 100), 3500),
        ("perplexity", "sonar", spent(told({"input_tokens_cost": 0.001, "total_cost": 0.006}), 1, 1), 6000),
        ("perplexity", "sonar", spent(told({}), 1, 1), None),
        ("nobody", "gpt-4o", spent(told(0.5), 1, 1), None),
    ],
)
def test_what_that_is_in_money(provider: str, model: str, found: Spent, micro_usd: int | None) -> None:
    """The provider's own figure, where it is known to mean dollars, else by the price; None where nobody knows."""
    assert found.micro_usd(MONEY.of(provider), model, NOW_MS) == micro_usd


def test_a_stream_that_is_ended_keeps_what_its_input_was() -> None:
    """What was read from a cache and written to one; of the output only what was delivered is charged."""
    found = at_limit(Usage(1000, 500, cached_tokens=400, cache_write_tokens=100, reasoning_tokens=80), 1, 30)
    assert (found.cost, found.usage) == ((1, 1000, 30), Usage(1000, cached_tokens=400, cache_write_tokens=100))

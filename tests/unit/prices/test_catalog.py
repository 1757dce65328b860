"""What models cost at whom: providers by their URLs, models by their names, prices by their moment."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from sentinel.prices.catalog import DATA, UNPRICED, Catalog, OwnPrice, ProviderPrices
from sentinel.prices.rates import Price
from sentinel.tokens.usage import Usage

DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS  # 2024-10-04
OURS = Catalog.ours()


def catalog(*models: tuple[Any, list[dict[str, Any]]], **more: Any) -> Catalog:
    """A catalog of one provider `us`, and of `them`, whose one model costs 9."""
    theirs = [{"match": ["equals", "theirs"], "prices": [{"price": {"input": "9"}}]}]
    providers = [
        {"id": "them", "url": "https://them", "fallbacks": [], "models": theirs},
        {
            "id": "us",
            "url": "https://us\\.",
            "fallbacks": [],
            "models": [{"match": match, "prices": prices} for match, prices in models],
            **more,
        },
    ]
    return Catalog(b"{}\n" + b"\n".join(json.dumps(provider).encode() for provider in providers))


def cost(catalog: Catalog, model: str, now_ms: int = NOW_MS) -> int | None:
    """What one token of input costs."""
    price = catalog.of("us").of(model, now_ms)
    return None if price is None else price.cost(1, 0, Usage())


def priced(cost: int, **when: Any) -> dict[str, Any]:
    return {**when, "price": {"input": str(cost)}}


@pytest.mark.parametrize(
    ("match", "names", "others"),
    [
        (["equals", "a"], ["a", "A"], ["ab", ""]),
        (["starts_with", "a"], ["a", "ab"], ["ba"]),
        (["ends_with", "a"], ["a", "ba"], ["ab"]),
        (["contains", "a"], ["bab"], ["b"]),
        (["regex", "^a[0-9]$"], ["a1"], ["a12"]),
        (["or", [["equals", "a"], ["equals", "b"]]], ["a", "b"], ["c"]),
        (["and", [["starts_with", "a"], ["ends_with", "b"]]], ["ab", "a-b"], ["a", "b"]),
        (["equals", "a-2024-08-06"], ["a-20240806", "a-2024-08-06"], ["a-20241306"]),
    ],
)
def test_a_model_is_found_by_its_rule(match: Any, names: list[str], others: list[str]) -> None:
    """In capitals or not, and with its date in either form."""
    found = catalog((match, [priced(1)]))
    assert [cost(found, name) for name in names] == [1] * len(names)
    assert [cost(found, name) for name in others] == [None] * len(others)


def test_the_first_rule_counts_and_then_those_of_others() -> None:
    """A provider that offers another's models has their prices for what it does not name itself."""
    found = catalog((["equals", "a"], [priced(1)]), (["contains", "a"], [priced(2)]), fallbacks=["them", "nobody"])
    assert [cost(found, name) for name in ("a", "ab", "theirs", "b")] == [1, 2, 9, None]


def test_a_price_begins_on_its_day() -> None:
    """The last that is in force counts, and it is looked up anew where a day has begun meanwhile."""
    found = catalog((["equals", "a"], [priced(1), priced(2, since="2024-10-04"), priced(3, since="2024-10-05")])).of(
        "us"
    )
    costs = []
    for now_ms in (NOW_MS - 1, NOW_MS, NOW_MS + DAY_MS - 1, NOW_MS + DAY_MS):
        price = found.of("a", now_ms)
        assert price is not None
        costs.append(price.cost(1, 0, Usage()))
    assert costs == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("hours", "in_force"),
    [(["01:00", "16:30"], [False, True, True, False, False]), (["16:30", "01:00"], [True, False, False, True, True])],
)
def test_a_price_has_its_hours(hours: list[str], in_force: list[bool]) -> None:
    """Daily, also past midnight."""
    found = catalog((["equals", "a"], [priced(1), priced(2, hours=hours)]))
    minutes = (0, 60, 16 * 60 + 29, 16 * 60 + 30, 23 * 60 + 59)
    assert [cost(found, "a", NOW_MS + minute * 60_000) == 2 for minute in minutes] == in_force


def test_before_all_of_its_prices_a_model_costs_the_first() -> None:
    """As genai-prices says; and what costs more than tokens has no price."""
    found = catalog(
        (["equals", "a"], [priced(1, since="2030-01-01"), priced(2, since="2031-01-01")]), (["equals", "b"], [{}])
    )
    assert (cost(found, "a"), cost(found, "b")) == (1, None)


def test_names_are_remembered_and_not_for_ever() -> None:
    """Clients may make up any number of them, of any length."""
    prices = catalog((["contains", "a"], [priced(1)])).of("us")
    assert prices.of("a", NOW_MS) is prices.of("a", NOW_MS)
    first = prices.of("a", NOW_MS)
    for number in range(3000):
        prices.of(f"a{number}", NOW_MS)
    assert prices.of("a", NOW_MS) is not first
    assert prices.of("a" * 257, NOW_MS) is None


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "google"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://corp.openai.azure.com/openai/v1", "azure"),
        ("https://api.groq.com/openai/v1", "groq"),
    ],
)
def test_a_provider_is_known_by_its_url(url: str, provider: str) -> None:
    """By the patterns of genai-prices."""
    prices = OURS.at(url)
    assert isinstance(prices, ProviderPrices)
    assert prices.id == provider
    assert prices.tells_cost == (provider == "openrouter")


def test_nobody_knows_the_prices_of_strangers() -> None:
    """Whatever their models are called: another's price would be a guess."""
    for prices in (OURS.at("http://127.0.0.1:8000/v1"), OURS.at("https://models.corp.test"), OURS.of("nobody")):
        assert prices is UNPRICED
        assert not prices.tells_cost
        assert prices.of("gpt-4o", NOW_MS) is None


@pytest.mark.parametrize(
    ("provider", "model", "tokens", "usage", "micro_usd"),
    [
        ("openai", "gpt-4o", (1000, 200), Usage(cached_tokens=100), 4375),
        ("openai", "gpt-4o-2024-08-06", (1000, 200), Usage(), 4500),
        ("openai", "gpt-4o-mini", (1000, 200), Usage(), 270),
        ("openai", "text-embedding-3-small", (1000, 0), Usage(), 20),
        ("openai", "whisper-1", (1000, 0), Usage(), None),
        ("openai", "nonsense", (1000, 200), Usage(), None),
        ("anthropic", "claude-3-5-haiku-20241022", (1000, 200), Usage(cached_tokens=500, cache_write_tokens=100), 1260),
        ("azure", "gpt-4o", (1000, 200), Usage(), 4500),
    ],
)
def test_what_known_models_cost(
    provider: str, model: str, tokens: tuple[int, int], usage: Usage, micro_usd: int | None
) -> None:
    """By the data that comes with us."""
    price = OURS.of(provider).of(model, 1_796_000_000_000)
    assert (None if price is None else price.cost(*tokens, usage)) == micro_usd


def test_all_of_the_data_can_be_read() -> None:
    """Each price of it is one; its source and its licence come along."""
    first, *lines = DATA.read_bytes().splitlines()
    about = json.loads(first)
    assert about["source"].startswith("genai-prices ")
    assert "Permission is hereby granted" in about["licence"]
    for line in lines:
        told = json.loads(line)
        prices = OURS.of(told["id"])
        assert isinstance(prices, ProviderPrices)
        for model in told["models"]:
            for name in names_in(model["match"]):
                prices.of(name, NOW_MS)


def names_in(match: Any) -> list[str]:
    kind, what = match
    return [name for each in what for name in names_in(each)] if kind in ("or", "and") else [what]


def test_an_operators_own_price_is_for_every_model() -> None:
    """And counts before what a provider tells."""
    own = OwnPrice(Price(input=Decimal(3)), {10: Price(input=Decimal(4))})
    price = own.of("anything", NOW_MS)
    assert price is not None
    assert (price.cost(10, 0, Usage()), price.cost(11, 0, Usage())) == (30, 44)
    assert not own.tells_cost

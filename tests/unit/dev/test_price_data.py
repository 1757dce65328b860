"""genai-prices' data as it is written down; its package, which is not installed here, judges it at `make prices`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from sentinel.dev.price_data import converted


@dataclass
class ClauseOr:
    or_: list[Any]


@dataclass
class ClauseEquals:
    equals: str


@dataclass
class ClauseRegex:
    regex: str


def provider(match: Any, prices: Any) -> SimpleNamespace:
    """A provider of one model, as the package has it."""
    model = SimpleNamespace(match=match, prices=prices)
    return SimpleNamespace(id="us", api_pattern="https://us", fallback_model_providers=None, models=[model])


def tiered(base: str, **steps: str) -> SimpleNamespace:
    tiers = [SimpleNamespace(start=int(start[1:]), price=Decimal(price)) for start, price in steps.items()]
    return SimpleNamespace(base=Decimal(base), tiers=tiers)


def test_a_price_and_its_tiers() -> None:
    """In each tier every kind has a price; tools are left out, and names are in small letters."""
    price = SimpleNamespace(
        input_mtok=tiered("1.50", _200="3"),
        output_mtok=Decimal(10),
        cache_read_mtok=None,
        web_searches_kcount=Decimal(9),
    )
    match = ClauseOr([ClauseEquals("Big"), ClauseRegex("^A")])
    assert converted([provider(match, price)]) == [
        {
            "id": "us",
            "url": "https://us",
            "fallbacks": [],
            "models": [
                {
                    "match": ["or", [["equals", "big"], ["regex", "^A"]]],
                    "prices": [
                        {"price": {"input": "1.5", "output": "10"}, "tiers": {200: {"input": "3", "output": "10"}}}
                    ],
                }
            ],
        }
    ]


def test_a_price_has_its_time() -> None:
    """Since a day, or from an hour to another; what costs more than tokens has none."""
    prices = [
        SimpleNamespace(constraint=None, prices=SimpleNamespace(input_mtok=Decimal(1))),
        SimpleNamespace(
            constraint=SimpleNamespace(start_date=date(2026, 8, 17)), prices=SimpleNamespace(requests_kcount=Decimal(1))
        ),
        SimpleNamespace(
            constraint=SimpleNamespace(start_time=time(1), end_time=time(16, 30)),
            prices=SimpleNamespace(input_mtok=Decimal("0.10")),
        ),
    ]
    [told] = converted([provider(ClauseEquals("a"), prices)])
    assert told["models"][0]["prices"] == [
        {"price": {"input": "1"}},
        {"since": "2026-08-17"},
        {"hours": ["01:00", "16:30"], "price": {"input": "0.1"}},
    ]

"""Writes genai-prices' data as `prices/catalog.py` reads it: `make prices`.

The package itself takes 0.7 seconds and 90 MB to be imported, and a proxy has 120 MB for all it does. So what we have
of it is its data, as one JSON line for each provider. What it costs is compared here, model by model, with the package.
Its licence is MIT (Pydantic Services Inc.), and comes along.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from sentinel.prices.catalog import DATA, Catalog
from sentinel.tokens.usage import Details, Usage

KINDS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image",
    "input_video_mtok": "input_video",
    "cache_audio_read_mtok": "cached_audio",
    "cache_image_read_mtok": "cached_image",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "output_video_mtok": "output_video",
}
BESIDE_TOKENS = {"web_searches_kcount", "storage_searches_kcount", "social_searches_kcount", "code_executions_kcount"}
"""Tools, which are no part of what a model's tokens cost. A model that costs anything else has no price here."""

MOMENTS = [datetime(2026, 11, 29, hour, 15, tzinfo=UTC) for hour in (0, 2, 5, 8, 17)]
AMOUNTS = (1, 1000, 32_000, 150_000, 250_000, 600_000)


def converted(providers: list[Any]) -> list[dict[str, Any]]:
    """The data of each provider."""
    return [
        {
            "id": provider.id,
            "url": provider.api_pattern,
            "fallbacks": provider.fallback_model_providers or [],
            "models": [{"match": _match(model.match), "prices": _prices(model.prices)} for model in provider.models],
        }
        for provider in providers
    ]


def _match(clause: Any) -> list[Any]:
    kind = type(clause).__name__.removeprefix("Clause")
    if kind in ("Or", "And"):
        return [kind.lower(), [_match(each) for each in (clause.or_ if kind == "Or" else clause.and_)]]
    name = {"Equals": "equals", "StartsWith": "starts_with", "EndsWith": "ends_with", "Contains": "contains"}
    if kind == "Regex":
        return ["regex", clause.regex]
    return [name[kind], getattr(clause, name[kind]).lower()]


def _prices(prices: Any) -> list[dict[str, Any]]:
    if not isinstance(prices, list):
        return [_price(prices)]
    found = []
    for each in prices:
        constraint = each.constraint
        when: dict[str, Any] = {}
        if hasattr(constraint, "start_date"):
            when = {"since": constraint.start_date.isoformat()}
        elif constraint is not None:
            when = {"hours": [f"{moment:%H:%M}" for moment in (constraint.start_time, constraint.end_time)]}
        found.append(when | _price(each.prices))
    return found


def _price(price: Any) -> dict[str, Any]:
    told = {name: value for name, value in vars(price).items() if value is not None}
    if set(told) - set(KINDS) - BESIDE_TOKENS:
        return {}
    base: dict[str, str] = {}
    tiers: dict[int, dict[str, str]] = {}
    known = {KINDS[name]: value for name, value in told.items() if name in KINDS}
    for value in known.values():
        for tier in getattr(value, "tiers", ()):
            tiers[tier.start] = {}
    for kind, value in known.items():
        base[kind] = _text(getattr(value, "base", value))
        for start, tier in tiers.items():
            # Of each kind the highest step that is not above this one.
            steps = [step.price for step in getattr(value, "tiers", ()) if step.start <= start]
            tier[kind] = _text(steps[-1] if steps else getattr(value, "base", value))
    return {"price": base} | ({"tiers": tiers} if tiers else {})


def _text(price: Decimal) -> str:
    text = f"{price:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def differences(providers: list[Any], catalog: Catalog) -> list[str]:
    """Where our reading of the data and the package differ: in what a model costs, or in which model a name means."""
    found = []
    for provider in providers:
        prices = catalog.of(provider.id)
        for model in provider.models:
            for name in _names(model.match):
                meant = provider.find_model(name, all_providers=providers)
                for moment in MOMENTS:
                    for tokens in AMOUNTS:
                        ours = prices.of(name, int(moment.timestamp() * 1000))
                        told = None if meant is None else _told(meant, provider, moment, tokens)
                        if (None if ours is None else ours.cost(tokens, tokens, _usage(tokens))) != told:
                            found.append(f"{provider.id} {name} {moment:%H:%M} {tokens}")
    return found


def _names(clause: Any) -> list[str]:
    own = [
        getattr(clause, kind) for kind in ("equals", "starts_with", "contains", "ends_with") if hasattr(clause, kind)
    ]
    return own + [name for each in getattr(clause, "or_", []) + getattr(clause, "and_", []) for name in _names(each)]


def _usage(tokens: int) -> Usage:
    details = Details(written_1h=tokens // 16)
    return Usage(tokens, tokens, 0, tokens // 4, tokens // 8, tokens // 2, False, details)


def _told(model: Any, provider: Any, moment: datetime, tokens: int) -> int | None:
    from genai_prices.types import Usage as TheirUsage  # noqa: PLC0415 (it is there for `make prices` alone)

    price = model.get_prices(moment)
    told = {name for name, value in vars(price).items() if value is not None}
    if told - set(KINDS) - BESIDE_TOKENS or "input_mtok" not in told or "output_mtok" not in told:
        return None
    usage = TheirUsage(
        input_tokens=tokens,
        output_tokens=tokens,
        cache_read_tokens=tokens // 4,
        cache_write_tokens=tokens // 8,
        cache_write_1h_tokens=tokens // 16,
        output_reasoning_tokens=tokens // 2,
    )
    cost = model.calc_price(usage, provider, genai_request_timestamp=moment).total_price
    micro = cost * 10**6
    return int(micro.to_integral_value(rounding="ROUND_CEILING"))


def main() -> None:
    """Write the data. Ends with status 1 where what we read costs something else than the package says."""
    from genai_prices.data import providers  # noqa: PLC0415 (see above)

    found = metadata.distribution("genai-prices")
    licence = next(file for file in found.files or () if file.name == "LICENSE")
    lines: list[Any] = [{"source": f"genai-prices {found.version}", "licence": Path(licence.locate()).read_text()}]
    lines += converted(providers)
    data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    wrong = differences(providers, Catalog(data))
    if wrong:
        sys.exit("\n".join(wrong[:50]))
    DATA.write_bytes(data)


if __name__ == "__main__":
    main()

"""What models cost at whom, by genai-prices' data: which provider a URL is, and which model a name.

Names are matched as genai-prices matches them: the first model whose rule takes the name, then those of providers
whose models this one offers, too; then the same with a date as OpenAI writes it. Of several prices the last that is in
force counts. Nothing is read before it is asked for, and of a provider that nobody has, its line is not taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from sentinel.prices.rates import ModelPrice, Price

DATA: Final = Path(str(resources.files("sentinel.prices"))) / "genai_prices.jsonl"

_HALF_HOUR_MS: Final = 1_800_000
"""Prices that depend on the time of day change at full or half hours."""
_DAY_MS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1).toordinal()
_MOST_MODELS: Final = 1024
"""Names whose price is remembered; a client may make up any."""
_MOST_NAME: Final = 256

TELLING: Final = frozenset({"openrouter", "perplexity"})
"""Providers that tell what a request has cost, in US dollars (`usage.cost`); others may mean anything by that."""


class Prices(Protocol):
    """What models cost at one provider, or one model of an operator's own price."""

    @property
    def tells_cost(self) -> bool:
        """Whether what the provider tells of cost counts."""

    def of(self, model: str, now_ms: int) -> ModelPrice | None:
        """The price of this model, as the provider names it, at this moment; None where it is not known."""


class _Priced(Struct):
    """A price, and when it is in force: since a day, or daily from one moment to another (UTC)."""

    since: str = ""
    hours: tuple[str, str] | None = None
    price: Price | None = None
    tiers: dict[int, Price] = {}

    def is_in_force(self, day: str, time: str) -> bool:
        if self.hours is None:
            return day >= self.since
        start, end = self.hours
        return start <= time < end if start <= end else time >= start or time < end


class _Model(Struct):
    match: tuple[str, Any]
    prices: list[_Priced]


class _Provider(Struct):
    id: str
    url: str
    fallbacks: list[str]
    models: list[_Model]


_decode = msgspec.json.Decoder(_Provider).decode

_COMPACT_DATE = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


class ProviderPrices:
    """What models cost at one provider that the data knows. fallbacks: whose models it offers, too."""

    def __init__(self, provider: _Provider, fallbacks: list[_Provider]) -> None:
        self.id = provider.id
        self.tells_cost = provider.id in TELLING
        self._providers = (provider, *fallbacks)
        self._known: dict[str, ModelPrice | None] = {}
        self._half_hour = -1

    def of(self, model: str, now_ms: int) -> ModelPrice | None:
        """As Prices."""
        half_hour = now_ms // _HALF_HOUR_MS
        if half_hour != self._half_hour or len(self._known) >= _MOST_MODELS:
            self._known.clear()
            self._half_hour = half_hour
        try:
            return self._known[model]
        except KeyError:
            found = self._known[model] = self._find(model.lower(), now_ms) if len(model) <= _MOST_NAME else None
            return found

    def _find(self, name: str, now_ms: int) -> ModelPrice | None:
        found = self._match(name) or self._match(_COMPACT_DATE.sub(r"-\1-\2-\3", name))
        if found is None:
            return None
        day, time = _moment(now_ms)
        in_force = [each for each in found.prices if each.is_in_force(day, time)]
        priced = in_force[-1] if in_force else found.prices[0]
        return None if priced.price is None else ModelPrice(priced.price, priced.tiers)

    def _match(self, name: str) -> _Model | None:
        models = (model for provider in self._providers for model in provider.models)
        return next((model for model in models if _matches(model.match, name)), None)


class OwnPrice:
    """A price of the operator's own, of whatever model: it counts before all that others tell."""

    tells_cost = False

    def __init__(self, price: Price, tiers: dict[int, Price] | None = None) -> None:
        self._price = ModelPrice(price, tiers)

    def of(self, model: str, now_ms: int) -> ModelPrice | None:  # noqa: ARG002 (the port's)
        """As Prices."""
        return self._price


class Unpriced:
    """Of a provider that nobody knows prices of."""

    tells_cost = False

    def of(self, model: str, now_ms: int) -> ModelPrice | None:  # noqa: ARG002 (the port's)
        """As Prices."""
        return None


UNPRICED: Final = Unpriced()


class Catalog:
    """All of the data. lines: of the file."""

    def __init__(self, data: bytes) -> None:
        self._lines = data.splitlines()[1:]

    @classmethod
    def ours(cls) -> Catalog:
        """The data that comes with this package."""
        return cls(DATA.read_bytes())

    def at(self, url: str) -> Prices:
        """The prices at this URL; UNPRICED for a provider that the data does not know."""
        for line in self._lines:
            about = _about(line)
            if re.match(about.url, url):
                return self.of(about.id)
        return UNPRICED

    def of(self, id_: str) -> Prices:
        """The prices of a provider, by its id; UNPRICED for one that the data does not know."""
        provider = self._provider(id_)
        if provider is None:
            return UNPRICED
        return ProviderPrices(provider, [each for name in provider.fallbacks if (each := self._provider(name))])

    def _provider(self, id_: str) -> _Provider | None:
        return next((_decode(line) for line in self._lines if _about(line).id == id_), None)


class _About(Struct):
    """The first of what a line has; the rest is not looked at."""

    id: str
    url: str


_about: Callable[[bytes], _About] = msgspec.json.Decoder(_About).decode


def _matches(match: tuple[str, Any], name: str) -> bool:
    kind, what = match
    return _RULES[kind](what, name)


_RULES: Final[dict[str, Callable[[Any, str], bool]]] = {
    "equals": lambda what, name: name == what,
    "starts_with": lambda what, name: name.startswith(what),
    "ends_with": lambda what, name: name.endswith(what),
    "contains": lambda what, name: what in name,
    "regex": lambda what, name: re.search(what, name) is not None,
    "or": lambda what, name: any(_matches(each, name) for each in what),
    "and": lambda what, name: all(_matches(each, name) for each in what),
}


def _moment(now_ms: int) -> tuple[str, str]:
    """A day, and the time of that day, as texts that sort as the moments do (UTC)."""
    day = date.fromordinal(_EPOCH + now_ms // _DAY_MS).isoformat()
    minutes = now_ms % _DAY_MS // 60_000
    return day, f"{minutes // 60:02}:{minutes % 60:02}"

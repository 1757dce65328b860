"""Tiers: which models serve simple, moderate and complex requests, by the governance's word. Decides.

Source: contract 1.6 and 2.14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

TIERS = ("simple", "moderate", "complex")
"""From the lowest to the highest."""

_FIRST_SECONDS, _MOST_SECONDS = 30.0, 300.0
"""A model that has failed is left alone for so long: doubling with each failure, until it succeeds."""


class TierModel(Struct, frozen=True, gc=False):
    """A model of a tier. relative_cost: 1 to 10; cheaper ones are chosen more often."""

    provider: str
    model: str
    relative_cost: int = 1


TierConfig = Mapping[str, Sequence[TierModel]]
"""The models of each tier."""


class TierHealth:
    """Which models have failed lately. Moments are seconds of any clock that goes on."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, str], tuple[int, float]] = {}

    def failed(self, model: TierModel, now: float) -> None:
        """It did, and not by its client's fault."""
        times, _ = self._failed.get((model.provider, model.model), (0, 0.0))
        seconds = min(_MOST_SECONDS, _FIRST_SECONDS * 2 ** min(times, 10))
        self._failed[model.provider, model.model] = times + 1, now + seconds

    def served(self, model: TierModel) -> None:
        """It is well."""
        self._failed.pop((model.provider, model.model), None)

    def rests_until(self, model: TierModel) -> float:
        """The moment until which it is left alone, 0 if it is well."""
        return self._failed.get((model.provider, model.model), (0, 0.0))[1]


def higher(one: str, other: str) -> str:
    """The higher of two tiers."""
    return max(one, other, key=TIERS.index)


def pick(models: Sequence[TierModel], chance: Callable[[], float]) -> TierModel:
    """One of these, each with a weight of 1 / relative_cost. chance: 0 to 1."""
    weights = [1 / max(1, model.relative_cost) for model in models]
    left = chance() * sum(weights)
    for model, weight in zip(models, weights, strict=True):
        left -= weight
        if left < 0:
            return model
    return models[-1]

"""Where a request goes: which targets a model has that speak a format. One provider for every model so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sentinel.prices.catalog import UNPRICED, Prices
from sentinel.proxy.additions import Additions
from sentinel.proxy.provider import AiProvider, SocketProvider


@dataclass(frozen=True, slots=True)
class Target:
    """A provider, by its name, and what it was found to refuse of our additions.

    sockets: the same over WebSockets. prices: of its models.
    """

    name: str
    provider: AiProvider
    additions: Additions = field(default_factory=Additions)
    sockets: SocketProvider | None = None
    prices: Prices = UNPRICED


class Registry:
    """Maps a model to its targets, the first to be tried first."""

    def __init__(self, target: Target) -> None:
        self._targets = (target,)

    def targets(self, format: str, model: str) -> Sequence[Target]:  # noqa: A002, ARG002 (one serves all so far)
        """The targets of this model that speak this format, such as `chat`; at least one."""
        return self._targets

"""The port of those who watch requests: metrics, the log line, and whoever comes later.

To add an observer, implement `Observer` and name it in `app.build`. Both calls are on the way of every request: an
observer takes what it needs and returns, without waiting for anything. The request has ended by then, so an observer
that fails is logged and disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from sentinel.clock import monotonic
from sentinel.proxy.logging import Level, RequestContext

log = structlog.get_logger()


class Observer(Protocol):
    """Told of each request once, at its end. now: monotonic seconds."""

    def exchange_ended(self, context: RequestContext, now: float) -> None:
        """A request to a metered endpoint has ended, and its usage is durable."""

    def request_ended(self, context: RequestContext, now: float, level: Level) -> None:
        """Any other request has ended, or was refused before it was one. level: how much its log line matters."""


class Observers:
    """All observers as one. label: the metric label of a model's name."""

    def __init__(self, observers: Sequence[Observer], label: Callable[[str], str]) -> None:
        self._observers = tuple(observers)
        self._label = label

    def exchange_ended(self, context: RequestContext) -> None:
        """Tell all observers of a request to a metered endpoint."""
        context.model_label = self._label(context.model) if context.model else "other"
        now = monotonic()
        for observer in self._observers:
            try:
                observer.exchange_ended(context, now)
            except Exception:
                log.exception("an observer failed", request_id=context.id)

    def request_ended(self, context: RequestContext, level: Level = "info") -> None:
        """Tell all observers of any other request."""
        now = monotonic()
        for observer in self._observers:
            try:
                observer.request_ended(context, now, level)
            except Exception:
                log.exception("an observer failed", request_id=context.id)

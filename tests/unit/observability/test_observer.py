"""Observers are told of each request once, and disturb neither it nor one another."""

from __future__ import annotations

import pytest

from sentinel.clock import monotonic
from sentinel.observability.observer import Observers
from sentinel.proxy.logging import Level, RequestContext


class Seen:
    """Remembers what it is told. fails: it is no good observer."""

    def __init__(self, *, fails: bool = False) -> None:
        self.told: list[tuple[str, str]] = []
        self._fails = fails

    def exchange_ended(self, context: RequestContext, now: float) -> None:
        self._note("exchange", context.model_label, context, now)

    def request_ended(self, context: RequestContext, now: float, level: Level) -> None:
        self._note("request", level, context, now)

    def _note(self, what: str, more: str, context: RequestContext, now: float) -> None:
        assert context.started <= now <= monotonic()
        self.told.append((what, more))
        if self._fails:
            raise ValueError("no")


def context(model: str = "") -> RequestContext:
    return RequestContext("req_1", "/v1/chat/completions", monotonic(), model=model)


@pytest.mark.parametrize(("model", "label"), [("gpt-4o", "GPT-4O"), ("", "other")])
def test_an_exchange_is_told_with_the_label_of_its_model(model: str, label: str) -> None:
    """Labels are bounded, names that clients send are not."""
    seen = Seen()
    Observers([seen], str.upper).exchange_ended(context(model))
    assert seen.told == [("exchange", label)]


def test_an_observer_that_fails_disturbs_nobody() -> None:
    """Neither the request, nor the observers that come after it."""
    first, second = Seen(fails=True), Seen()
    observers = Observers([first, second], str)
    observers.exchange_ended(context())
    observers.request_ended(context())
    observers.request_ended(context(), "debug")
    assert first.told == second.told == [("exchange", "other"), ("request", "info"), ("request", "debug")]

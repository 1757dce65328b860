"""What is reserved, and what a provider is told because of what was granted (ADR 0005)."""

from __future__ import annotations

import pytest

from sentinel.endpoints.endpoint import OutputBound
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.output_estimator import ENOUGH, OutputEstimator
from sentinel.limits.policy import Cost, Reservation, Verdict
from sentinel.proxy.billing import Spent
from sentinel.proxy.reservation import has_open_end, learn, least, of, output_max

USER = AuthenticatedUser("ana", "ana@x.y")
DEFAULT = 1000
KNOWN, UNKNOWN = "gpt-4o", "nobody-has-published-this"


def bound(
    *, choices: int = 1, client_max: int | None = None, default_max: int | None = None, in_sight: bool = False
) -> OutputBound:
    return OutputBound(choices, choices, client_max, default_max, in_sight, True, False)


def ask(bound: OutputBound, model: str = KNOWN, estimator: OutputEstimator | None = None) -> Reservation:
    return of("req_1", USER, model, 9, bound, estimator or OutputEstimator(DEFAULT))


def granted(output: int, *, limited: bool = True) -> Verdict:
    return Verdict(True, 0, output, limited)


@pytest.mark.parametrize(
    ("bound", "output", "fair"),
    [
        (bound(client_max=50, choices=3), 150, 0),
        (bound(client_max=0), 0, 0),
        (bound(default_max=16, choices=2), 32, 0),
        (bound(client_max=50, default_max=16), 50, 0),
        (bound(in_sight=True, choices=2), 2 * DEFAULT, 0),
        (bound(choices=2), 2 * 16_384, 2 * DEFAULT),
    ],
    ids=["maximum", "none_at_all", "default", "maximum_before_default", "in_sight", "open_end"],
)
def test_how_much_is_reserved(bound: OutputBound, output: int, fair: int) -> None:
    """The client's maximum, else the format's, else what can be watched, else all that the model can answer."""
    found = ask(bound)
    assert (found.output_tokens, found.fair_output) == (output, fair)
    assert (found.user, found.email, found.model, found.input_tokens) == ("ana", "ana@x.y", KNOWN, 9)
    assert found.least_output == bound.choices


def test_the_least_that_a_request_can_be() -> None:
    """One token in and one out, under an id of its own: it is never forwarded."""
    found = least("req_1", USER)
    assert found.id != "req_1"
    assert (found.user, found.input_tokens, found.output_tokens) == ("ana", 1, 1)


@pytest.mark.parametrize(
    ("bound", "model", "granted_output", "told"),
    [
        (bound(client_max=50), KNOWN, 50, None),
        (bound(client_max=50), KNOWN, 49, 49),
        (bound(client_max=50, choices=2), KNOWN, 41, 20),
        (bound(in_sight=True), UNKNOWN, DEFAULT, None),
        (bound(), KNOWN, 16_384, None),
        (bound(), UNKNOWN, 4096, 4096),
    ],
    ids=["all", "less", "for_each_choice", "in_sight", "bounds_itself", "nobody_knows_its_end"],
)
def test_when_a_provider_is_told_a_maximum(
    bound: OutputBound, model: str, granted_output: int, told: int | None
) -> None:
    """Where it could exceed what was granted; a model of known length that was granted all of it cannot."""
    assert output_max(bound, ask(bound, model), granted(granted_output)) == told
    assert output_max(bound, ask(bound, model), granted(granted_output, limited=False)) is None


@pytest.mark.parametrize(
    ("bound", "granted_output", "is_open"),
    [
        (bound(in_sight=True), DEFAULT, True),
        (bound(in_sight=True), DEFAULT - 1, False),
        (bound(in_sight=True, client_max=DEFAULT), DEFAULT, False),
        (bound(), 16_384, False),
    ],
)
def test_which_streams_are_held_by_us_alone(bound: OutputBound, granted_output: int, is_open: bool) -> None:
    """Those that are watched, of which neither client nor we have told the provider an end."""
    assert has_open_end(bound, ask(bound), granted(granted_output)) is is_open


def test_answers_teach_what_one_choice_needs() -> None:
    """Next time a stream without a maximum reserves that."""
    estimator, streamed = OutputEstimator(DEFAULT), bound(in_sight=True, choices=2)
    for _ in range(ENOUGH):
        learn(estimator, ask(streamed), streamed, Spent(Cost(1, 9, 80)))
    assert ask(streamed, estimator=estimator).output_tokens == 80

"""How a request ended, in one word."""

from __future__ import annotations

import pytest

from sentinel.error import AppError, InternalError, RateLimitExceeded, UpstreamError
from sentinel.proxy.outcome import Outcome, concerns_the_client, of_error, of_stream


@pytest.mark.parametrize(
    ("at_limit", "is_broken", "outcome"),
    [(False, False, "ok"), (False, True, "broken"), (True, False, "limit"), (True, True, "limit")],
)
def test_streams(at_limit: bool, is_broken: bool, outcome: Outcome) -> None:
    """One that we ended is not broken, however the provider ends it then."""
    assert of_stream(at_limit=at_limit, is_broken=is_broken) == outcome


@pytest.mark.parametrize(
    ("error", "before", "has_begun", "outcome"),
    [
        (UpstreamError("no"), "error", False, "upstream_error"),
        (UpstreamError("no"), "error", True, "broken"),
        (RateLimitExceeded("no"), "error", False, "refused"),
        (RateLimitExceeded("no"), "client_gone", False, "client_gone"),
        (InternalError("no"), "error", False, "error"),
        (InternalError("no"), "shutdown", True, "shutdown"),
    ],
)
def test_errors(error: AppError, before: Outcome, has_begun: bool, outcome: Outcome) -> None:
    """Whose side failed decides, and whether the client has a part of the answer; what is known already stays."""
    assert of_error(error, before, has_begun=has_begun) == outcome


def test_which_refusals_of_a_provider_are_passed_on() -> None:
    """Those about the request. Our key, our bill and the provider's own failures are not the client's."""
    told = [status for status in range(100, 600) if concerns_the_client(status)]
    assert set(range(400, 500)) - set(told) == {401, 402, 403, 407}
    assert all(400 <= status < 500 for status in told)

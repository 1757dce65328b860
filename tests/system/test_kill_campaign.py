"""A short kill campaign with every run of the tests; the long ones are in tests/soak."""

from __future__ import annotations

import os

from tests.campaign import assert_exact, campaign


def test_usage_is_exact_after_a_short_kill_campaign() -> None:
    """Sentinels, Redis and Zion fail in a random order under load: nothing is lost, doubled or overdrawn."""
    seed = int(os.environ.get("SOAK_SEED", "7"))
    assert_exact(campaign(seed, 14, appendfsync="always", ambiguous=True))

"""Kill campaigns of a minute or more: SOAK_SECONDS for each variant, SOAK_SEED to have one again."""

from __future__ import annotations

import os
import random

import pytest

from tests.campaign import assert_exact, campaign

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 180)]


@pytest.mark.parametrize("ambiguous", [True, False], ids=["dedupe", "no_dedupe"])
@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_usage_is_exact_after_a_kill_campaign(appendfsync: str, ambiguous: bool) -> None:
    """Sentinels, Redis and Zion fail in a random order under load: nothing is lost, doubled or overdrawn."""
    # With `everysec`, too: a SIGKILL ends the process, not the machine, and the kernel keeps the pages that Redis has
    # written before it answered. Only a crash of the machine could take the last second.
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
    assert_exact(campaign(seed, SECONDS, appendfsync=appendfsync, ambiguous=ambiguous))

"""A short kill campaign; `make soak` has the long ones."""

from __future__ import annotations

import pytest

from tests import campaign


@pytest.mark.timeout(120)
async def test_kills_under_load() -> None:
    """Whatever is killed when: what clients got complete is told once, and nobody pays more than was billed."""
    report = await campaign.run(7, 15, appendfsync="always", clients=8)
    assert (report.lost, report.doubled, report.overdrawn) == ([], [], 0), str(report)
    assert report.complete > 50, str(report)
    assert sum(report.events.values()) >= 3, str(report)

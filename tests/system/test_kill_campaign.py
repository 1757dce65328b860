"""A short kill campaign; `make soak` has the long ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import campaign
from tests.support.campaign_requests import KINDS
from tests.support.governance import sqlite_url


async def test_kills_under_load() -> None:
    """Whatever is killed when: what clients got complete is told once, and nobody pays more than was billed."""
    report = await campaign.run(7, 15, appendfsync="always", clients=8)
    assert (report.lost, report.doubled, report.overdrawn, report.estranged) == ([], [], 0, 0), str(report)
    assert report.complete > 50, str(report)
    assert set(report.kinds) >= {kind.name for kind in KINDS}, str(report)
    assert sum(report.events.values()) >= 2, str(report)


async def test_kills_of_the_built_in_governance(tmp_path: Path) -> None:
    """In Zion's place: it is killed and stands still, too, and every token is booked once."""
    report = await campaign.run(7, 12, appendfsync="everysec", clients=8, governance_url=sqlite_url(tmp_path))
    assert (report.lost, report.doubled, report.overdrawn, report.estranged) == ([], [], 0, 0), str(report)
    assert report.complete > 50, str(report)
    assert report.events["governance killed"] >= 1, str(report)


@pytest.mark.parametrize(("trouble", "seconds"), [("idle", 10), ("poison", 10), ("emptied", 8)])
async def test_trouble_under_load(trouble: str, seconds: float) -> None:
    """Connections of the idle are lost, poison is in every queue, Redis comes back empty: nobody pays twice."""
    report = await campaign.run(7, seconds, appendfsync="everysec", clients=8, trouble=trouble)
    assert report.doubled == [], str(report)
    assert sum(report.events.values()) >= 1, str(report)
    if trouble != "emptied":
        assert (report.lost, report.overdrawn, report.estranged) == ([], 0, 0), str(report)
    if trouble == "poison":
        assert report.kept == 5 * report.poisoned > 0, str(report)

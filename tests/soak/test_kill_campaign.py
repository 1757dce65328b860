"""Minutes of kills under load: nothing lost, nothing doubled, nobody overdrawn. `make soak`.

SOAK_SECONDS (180) says how long each of the two long campaigns takes, SOAK_SEED which events come; the seed of a run is
printed with its figures.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.support import campaign
from tests.support.campaign import Report

SECONDS = float(os.environ.get("SOAK_SECONDS", "180"))
SEED = int(os.environ.get("SOAK_SEED", str(int(time.time()))))

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3 * SECONDS + 300)]


async def run(capsys: pytest.CaptureFixture[str], seconds: float, appendfsync: str, **options: Any) -> Report:
    report = await campaign.run(SEED, seconds, appendfsync=appendfsync, **options)
    with capsys.disabled():
        print(f"\nappendfsync {appendfsync} {options or ''}\n{report}")  # noqa: T201 (what one runs it for)
    return report


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_kills(capsys: pytest.CaptureFixture[str], appendfsync: str) -> None:
    """SIGKILL for Sentinels, for Redis, for deliverers in mid-batch, SIGSTOP, a failing Zion: the books are right."""
    report = await run(capsys, SECONDS, appendfsync)
    assert (report.lost, report.doubled, report.overdrawn, report.estranged) == ([], [], 0, 0)


async def test_kills_of_the_built_in_governance(capsys: pytest.CaptureFixture[str], database_url: str) -> None:
    """It is killed and stands still like everybody else, on SQLite and on PostgreSQL: the books are right."""
    report = await run(capsys, SECONDS / 3, "everysec", governance_url=database_url)
    assert (report.lost, report.doubled, report.overdrawn, report.estranged) == ([], [], 0, 0)


async def test_power_cuts_of_redis(capsys: pytest.CaptureFixture[str]) -> None:
    """Redis loses its last second, again and again; those who live settle it anew, and tell nothing twice."""
    report = await run(capsys, SECONDS / 3, "everysec", power_cuts="redis")
    assert (report.lost, report.doubled, report.estranged) == ([], [], 0)
    assert report.overdrawn <= report.forgotten


async def test_power_cuts_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """The one window: Redis loses its last second and all Sentinels are gone. Nothing older than that is lost."""
    report = await run(capsys, SECONDS / 3, "everysec", power_cuts="all")
    assert all(before <= campaign.UNSYNCED_SECONDS + 0.5 for before in report.lost_before_cut)


@pytest.mark.parametrize("trouble", ["idle", "poison", "away"])
async def test_trouble(capsys: pytest.CaptureFixture[str], trouble: str) -> None:
    """Lost connections of the idle, poison in every queue, REDIS_DOWN=local in mid-stream: the books are right."""
    report = await run(capsys, SECONDS / 3, "everysec", trouble=trouble)
    assert (report.lost, report.doubled) == ([], [])
    assert report.kept == 5 * report.poisoned
    assert report.overdrawn <= (report.unseen if trouble == "away" else 0)


async def test_an_emptied_redis(capsys: pytest.CaptureFixture[str]) -> None:
    """A Redis that comes back with nothing takes what waited in it; nothing is told twice."""
    report = await run(capsys, SECONDS / 3, "everysec", trouble="emptied")
    assert report.doubled == []

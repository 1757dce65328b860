"""The built-in governance while its database is away, locked, full or gone: 503 in time, nothing half booked.

Proxies wait 2.5 s for a look-up, and 15 s for the answer to a report.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sentinel.governance.service.database import Database
from sentinel.governance.service.schema import users
from tests.support.client import Answer
from tests.support.disks import fill, locked, small_disk
from tests.support.governance import Governance, governance, settings_of, sqlite_url
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

LOOK_UP_SECONDS = 2.5
REPORT_SECONDS = 15.0
ITEM: dict[str, Any] = {"email": "ana@corp.test", "aiRequests": 1, "aiInputTokens": 31, "aiOutputTokens": 7}


def populated(house: Governance) -> Governance:
    house.set_plan("team", requests=10)
    house.add_user("ana@corp.test", "team", external_id="ext-ana")
    return house


def limits(house: Governance) -> Answer:
    return house.call("GET", "/limits/external/ext-ana")


def in_time(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What came back, once it has been seen to come in time."""
    began = time.monotonic()
    answer = call()
    assert time.monotonic() - began < seconds, answer
    return answer


def is_away(answer: Answer) -> bool:
    """Whether this says that it may be asked again, and nothing else."""
    assert (answer.status, answer.json["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert answer.headers["retry-after"].isdecimal()
    return "SQL" not in answer.body.decode()


@pytest.fixture
def own() -> Iterator[Postgres]:
    """A server that no other test uses."""
    with Postgres() as server:
        yield server


def test_postgresql_is_killed_and_comes_back(own: Postgres) -> None:
    """503 in time, however many ask; afterwards all goes on with the same connections' places."""
    with own.database() as url, governance(url) as plain, ThreadPoolExecutor(100) as pool:
        house = populated(plain)
        key = house.add_key("ana@corp.test").key
        assert house.book(ITEM, key="k1").status == 200
        own.kill()
        looked = [pool.submit(in_time, LOOK_UP_SECONDS, lambda: house.me(key)) for _ in range(50)]
        looked += [pool.submit(in_time, LOOK_UP_SECONDS, lambda: limits(house)) for _ in range(50)]
        assert all(is_away(each.result()) for each in looked)
        assert is_away(in_time(REPORT_SECONDS, lambda: house.book(ITEM, key="k2")))
        own.start()
        wait_until(lambda: limits(house).status == 200, "the service goes on", seconds=LOOK_UP_SECONDS)
        assert house.me(key).status == 200
        assert [house.book(ITEM, key=name).status for name in ("k1", "k2")] == [200, 200]
        assert house.used("ana@corp.test") == (2, 62, 14)


def test_postgresql_stands_still(own: Postgres) -> None:
    """Nobody is told anything by it, and everybody is answered."""
    with own.database() as url, governance(url) as plain, ThreadPoolExecutor(100) as pool:
        house = populated(plain)
        assert limits(house).status == 200
        pids = own.pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            looked = [pool.submit(in_time, LOOK_UP_SECONDS, lambda: limits(house)) for _ in range(100)]
            assert all(is_away(each.result()) for each in looked)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        wait_until(lambda: limits(house).status == 200, "the service goes on")


def test_postgresqls_rows_are_locked(postgres_url: str) -> None:
    """Reports about a user wait, and are told to come again; who only looks is not held up, nor is another user."""
    with governance(postgres_url) as plain, ThreadPoolExecutor(100) as pool:
        house = populated(plain)
        key = house.add_key("ana@corp.test").key
        other = Database(settings_of(postgres_url))
        with other.writing() as connection:
            connection.execute(select(users.c.id).with_for_update())
            reports = [pool.submit(in_time, REPORT_SECONDS, lambda: house.book(ITEM, key="k1")) for _ in range(60)]
            assert in_time(LOOK_UP_SECONDS, lambda: limits(house)).status == 200
            assert in_time(LOOK_UP_SECONDS, lambda: house.me(key)).status == 200
            assert all(is_away(each.result()) for each in reports)
        other.close()
        assert house.used("ana@corp.test") == (0, 0, 0)
        assert house.book(ITEM).status == 200


def test_sqlite_is_locked(tmp_path: Path) -> None:
    """Reports wait, and are told to come again; who only looks is not held up by them."""
    with governance(sqlite_url(tmp_path)) as plain, ThreadPoolExecutor(100) as pool:
        house = populated(plain)
        key = house.add_key("ana@corp.test").key
        with locked(tmp_path / "governance.db"):
            reports = [pool.submit(in_time, REPORT_SECONDS, lambda: house.book(ITEM)) for _ in range(60)]
            assert in_time(LOOK_UP_SECONDS, lambda: limits(house)).status == 200
            assert in_time(LOOK_UP_SECONDS, lambda: house.me(key)).status == 200
            assert all(is_away(each.result()) for each in reports)
        assert house.used("ana@corp.test") == (0, 0, 0)
        assert house.book(ITEM).status == 200


def test_the_disk_is_full(tmp_path: Path) -> None:
    """Nothing is booked; who only looks is served; it goes on when there is room."""
    with small_disk(tmp_path / "disk") as folder, governance(sqlite_url(folder)) as plain:
        house = populated(plain)
        key = house.add_key("ana@corp.test").key
        items = [{**ITEM, "model": f"model-{number}"} for number in range(1_000)]
        assert house.book(ITEM, key="k1").status == 200
        fill(folder / "rest")
        assert is_away(house.book(*items, key="k2"))
        assert house.me(key).status == 200
        assert house.used("ana@corp.test") == (1, 31, 7)
        (folder / "rest").unlink()
        assert house.book(*items, key="k2").status == 200
        assert house.used("ana@corp.test") == (1_001, 31_031, 7_007)


def test_the_file_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is booked where nobody would find it; the file that is put back has it all."""
    away = tmp_path / "away"
    away.mkdir()
    with governance(sqlite_url(tmp_path)) as plain:
        house = populated(plain)
        assert house.book(ITEM, key="k1").status == 200
        for path in list(tmp_path.glob("governance.db*")):
            path.rename(away / path.name)
        assert is_away(house.book(ITEM, key="k2"))
        assert is_away(limits(house))
        assert "unable to open database file" in capsys.readouterr().out
        for path in list(away.iterdir()):
            path.rename(tmp_path / path.name)
        assert house.book(ITEM, key="k2").status == 200
        assert house.used("ana@corp.test") == (2, 62, 14)

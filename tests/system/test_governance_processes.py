"""Several processes of the built-in governance on one database, and processes that are killed: all is booked once."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text

from sentinel.governance.service import directory, ledger
from sentinel.governance.service.app import open_database
from sentinel.governance.service.database import Database
from sentinel.governance.service.schema import AMOUNTS, users
from sentinel.governance.service.schema import ledger as books
from sentinel.governance.service.schema import reports as answers
from tests.support.governance import GovernanceProcess, settings_of
from tests.support.waiting import wait_until

USERS = 12
NOW_MS = time.time_ns() // 1_000_000

Item = dict[str, Any]
Report = tuple[str, list[Item]]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """With users of two plans."""
    database = open_database(settings_of(database_url))
    with database.writing() as connection:
        for name in ("red", "blue"):
            directory.set_plan(connection, name, {"requests": 10}, NOW_MS)
        for number in range(USERS):
            directory.add_user(connection, email_of(number), ["red", "blue"][number % 2], NOW_MS)
    yield database
    database.close()


def email_of(number: int) -> str:
    return f"user{number}@corp.test"


def reports_of(chance: random.Random, count: int) -> list[Report]:
    """Of any users, in any order, some of them several times."""
    return [
        (
            f"report-{number}",
            [
                {
                    "email": email_of(chance.randrange(USERS)),
                    "aiRequests": chance.randrange(1, 3),
                    "aiInputTokens": chance.randrange(1_000),
                    "aiOutputTokens": chance.randrange(1_000),
                    "model": chance.choice(["gpt-4o", "claude"]),
                }
                for _ in range(chance.randrange(1, 30))
            ],
        )
        for number in range(count)
    ]


def told(reports: list[Report]) -> Counter[tuple[str, str, str]]:
    """What reports say, by address, model and what is counted."""
    names = {"aiRequests": "requests", "aiInputTokens": "input_tokens", "aiOutputTokens": "output_tokens"}
    counted: Counter[tuple[str, str, str]] = Counter()
    for _, items in reports:
        for item in items:
            for name, column in names.items():
                counted[item["email"], item["model"], column] += item[name]
    return counted


def booked(database: Database) -> Counter[tuple[str, str, str]]:
    """What the ledger has, in the same way."""
    sums = [func.sum(books.c[name]).label(name) for name in AMOUNTS]
    query = select(users.c.email, books.c.model, *sums).join_from(books, users).group_by(users.c.email, books.c.model)
    with database.reading() as connection:
        rows = connection.execute(query).all()
    return Counter({(row.email, row.model, name): int(getattr(row, name)) for row in rows for name in AMOUNTS})


def balances_are_right(database: Database) -> bool:
    """What is told to proxies of each user is what the ledger has."""
    with database.reading() as connection:
        for number in range(USERS):
            account = ledger.account_by_email(connection, email_of(number), NOW_MS)
            assert account is not None
            own = books.c.user_id == account.user_id, books.c.day >= account.period.start
            sums = connection.execute(select(*(func.sum(books.c[name]) for name in AMOUNTS)).where(*own)).one()
            used = ledger.spent(connection, [account])[account.user_id]
            assert used == tuple(int(each or 0) for each in sums), account
    return True


def change_plans(database: Database, ended: threading.Event, chance: random.Random) -> int:
    """Change plans, and who has which, until it is over; how often."""
    for count in itertools.count():
        if ended.is_set():
            return count
        with database.writing() as connection:
            if chance.random() < 0.5:
                period = chance.choice(["daily", "weekly", "monthly", "never"])
                directory.set_plan(connection, chance.choice(["red", "blue"]), {"period": period}, NOW_MS)
            else:
                who, plan = email_of(chance.randrange(USERS)), chance.choice(["red", "blue"])
                directory.change_user(connection, who, NOW_MS, plan_name=plan)
    raise AssertionError


@contextlib.contextmanager
def processes(count: int, database_url: str, folder: Path) -> Iterator[list[GovernanceProcess]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(GovernanceProcess(database_url, folder / f"service-{number}"))
            for number in range(count)
        ]


def test_a_crowd_on_several_processes(database: Database, database_url: str, tmp_path: Path) -> None:
    """Every report comes three times, to any process, at the same time, while plans change: it is booked once."""
    chance = random.Random(7)
    reports = reports_of(chance, 100)
    sendings = [each for each in reports for _ in range(3)]
    chance.shuffle(sendings)
    ended = threading.Event()
    with processes(3, database_url, tmp_path) as services, ThreadPoolExecutor(17) as pool:
        changes = pool.submit(change_plans, database, ended, random.Random(8))

        def send(report: Report) -> tuple[str, int, bytes]:
            key, items = report
            answer = random.choice(services).book(*items, key=key)
            while answer.status == 503:
                # SQLite's writers do not queue: one of them may be unlucky.
                assert database.is_sqlite, "a deadlock"
                answer = random.choice(services).book(*items, key=key)
            return key, answer.status, answer.body

        said = list(pool.map(send, sendings))
        ended.set()
        assert changes.result() > 3
        logs = "".join(service.log for service in services)
    assert {status for _, status, _ in said} == {200}, logs
    assert len({(key, body) for key, _, body in said}) == len(reports)
    assert booked(database) == told(reports)
    assert balances_are_right(database)


def deliver(service: GovernanceProcess, report: Report) -> bool:
    """Whether it is known to be booked."""
    key, items = report
    try:
        return service.book(*items, key=key).status == 200
    except (OSError, http.client.HTTPException):
        return False


def test_kills_at_any_moment(database: Database, database_url: str, tmp_path: Path) -> None:
    """Whoever gets no answer repeats the report after the restart: nothing is lost, nothing is booked twice."""
    chance = random.Random(9)
    reports = reports_of(chance, 400)
    with GovernanceProcess(database_url, tmp_path / "service") as service, ThreadPoolExecutor(8) as pool:
        left = reports
        kills = 0
        while left:
            sent = [pool.submit(deliver, service, report) for report in left]
            if kills < 8:
                time.sleep(chance.uniform(0.02, 0.4))  # A moment like any other.
                service.kill()
                kills += 1
            left = [report for report, outcome in zip(left, sent, strict=True) if not outcome.result()]
            if kills and left:
                service.kill()
                service.start()
    assert kills >= 3
    assert booked(database) == told(reports)
    assert balances_are_right(database)


def test_kills_between_the_books_and_the_answer(database: Database, database_url: str, tmp_path: Path) -> None:
    """A report that is booked, and whose sender does not know it, is not booked again."""
    reports = reports_of(random.Random(10), 6)
    with GovernanceProcess(database_url, tmp_path / "service") as service, ThreadPoolExecutor(1) as pool:
        for report in reports:
            key, _ = report
            sent = pool.submit(deliver, service, report)
            wait_until(partial(is_kept, database, key), "it is booked")
            service.kill()
            sent.result()
            service.start()
            assert deliver(service, report)
    assert booked(database) == told(reports)


def is_kept(database: Database, key: str) -> bool:
    with database.reading() as connection:
        return connection.execute(select(answers.c.key).where(answers.c.key == key)).first() is not None


def test_a_kill_in_a_transaction(database: Database, database_url: str, tmp_path: Path) -> None:
    """Of what was being booked nothing is left; it is booked when it comes again."""
    if database.is_sqlite:
        pytest.skip("a transaction of SQLite cannot be held up in its middle")
    ((key, items),) = reports = reports_of(random.Random(11), 1)
    with GovernanceProcess(database_url, tmp_path / "service") as service, ThreadPoolExecutor(1) as pool:
        with database.writing() as connection:
            connection.execute(select(users.c.id).where(users.c.email == items[0]["email"]).with_for_update())
            sent = pool.submit(deliver, service, (key, items))
            # It has taken its key, and waits for the user.
            wait_until(lambda: waiting(connection), "the service waits")
            service.kill()
            assert not sent.result()
        service.start()
        assert booked(database) == Counter()
        assert deliver(service, (key, items))
    assert booked(database) == told(reports)


def waiting(connection: Connection) -> bool:
    return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())

"""Plans and users in files, backups, and the move from one database to another (`governance/service/copies.py`)."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from sentinel.governance.service.database import Database
from sentinel.governance.service.notices import Teller
from sentinel.governance.service.schema import metadata, notices
from tests.support.commands import Console
from tests.support.governance import Governance, governance, settings_of, sqlite_url
from tests.support.waiting import wait_until


@pytest.fixture
def console(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    """A terminal, with two plans and two users."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOVERNANCE_DATABASE_URL", database_url)
    console = Console(capsys)
    console.run("plan", "set", "team", "--requests", "100", "--models", "gpt-4o*,o3")
    console.run("plan", "set", "größer", "--period", "never")
    console.run("user", "add", "ana@corp.test", "--plan", "team", "--external-id", "ext-ana", "--name", 'Ana "Ö"')
    console.run("user", "add", "bo@corp.test", "--plan", "größer", "--team", "red")
    console.run("user", "disable", "bo@corp.test")
    return console


@pytest.fixture
def another(tmp_path: Path) -> str:
    """The URL of another, empty database."""
    (tmp_path / "another").mkdir()
    return sqlite_url(tmp_path / "another")


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["all.csv", "all.jsonl"])
def test_an_export_can_be_imported(
    console: Console, name: str, another: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Into another database, where it makes the same; a second time it changes nothing, or is a mistake."""
    assert console.json("export", name) == {"plans": 2, "users": 2}
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    exported = console.run("export", "--format", "csv" if name.endswith("csv") else "json")[0]
    assert exported == (tmp_path / name).read_text()
    assert console.run("export", "-")[0] == console.run("export")[0]
    plans, users = console.json("plan", "list"), console.json("user", "list")
    monkeypatch.setenv("GOVERNANCE_DATABASE_URL", another)
    added = {"plans_added": 2, "plans_changed": 0, "users_added": 2, "users_changed": 0}
    assert console.json("import", name) == added
    assert console.json("plan", "list") == plans
    own = {"id", "created_at"}
    without_own = [{key: value for key, value in user.items() if key not in own} for user in users]
    assert [{k: v for k, v in user.items() if k not in own} for user in console.json("user", "list")] == without_own
    assert console.json("import", name, "--update") == dict.fromkeys(added, 0)
    lines = console.run("import", name, status=1)[1].splitlines()
    assert lines[0] == f"nothing was imported from {name}:"
    assert len(lines) == 5
    assert "there is a" in lines[1]


def test_an_import_changes_what_it_says(console: Console, tmp_path: Path) -> None:
    """And nothing else, with --update."""
    (tmp_path / "new.csv").write_text(
        "kind,plan,email,team,disabled,requests\n"
        "user,new,ana@corp.test,,,\n"
        "user,,BO@corp.test,blue,no,\n"
        "user,new,cy@corp.test,,yes,\n"
        "plan,new,,,,5k\n"
        "plan,team,,,,unlimited\n"
    )
    counts = console.json("import", "new.csv", "--update")
    assert counts == {"plans_added": 1, "plans_changed": 1, "users_added": 1, "users_changed": 2}
    assert console.json("plan", "show", "team")["requests"] is None
    assert console.json("plan", "show", "team")["models"] == ["gpt-4o*", "o3"]
    users = {user["email"]: user for user in console.json("user", "list")}
    assert (users["ana@corp.test"]["plan"], users["ana@corp.test"]["name"]) == ("new", 'Ana "Ö"')
    assert (users["bo@corp.test"]["team"], users["bo@corp.test"]["disabled"]) == ("blue", False)
    assert users["cy@corp.test"]["disabled"] is True


def test_an_import_is_all_or_nothing(console: Console, tmp_path: Path) -> None:
    """Every mistake is told, with its line, also what the database alone knows."""
    lines = [
        {"kind": "user", "email": "cy@corp.test", "plan": "team"},
        {"kind": "user", "email": "dee@corp.test", "plan": "nobody's"},
        {"kind": "user", "email": "no address", "plan": "team"},
        {"kind": "user", "email": "eve@corp.test", "plan": "team", "external_id": "ext-ana"},
        {"kind": "user", "email": "ana@corp.test", "external_id": "another"},
        {"kind": "user", "email": "fay@corp.test"},
        {"kind": "plan", "plan": "new", "requests": 1.5},
        {"kind": "plan", "plan": "newer", "requests": 2**60},
        {"kind": "plan", "plan": "newest", "period": "yearly"},
    ]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = console.run("export")[0]
    told = console.run("import", "new.jsonl", "--update", status=1)[1].splitlines()
    assert [line.partition(":")[0] for line in told[1:]] == [f"line {number}" for number in range(2, 10)]
    assert "no plan" in told[1]
    assert "cannot be changed" in told[4]
    assert console.run("export")[0] == before


def test_files_are_never_written_over(console: Console, tmp_path: Path) -> None:
    """Nor is one made where the command fails."""
    (tmp_path / "mine").write_text("precious")
    assert "File exists" in console.fails("export", "mine")
    assert "No such file" in console.fails("import", "nothing")
    assert "No such file" in console.fails("export", "no/such/folder")
    assert (tmp_path / "mine").read_text() == "precious"


# ----------------------------------------------------------------------------------------------------------- backups


@contextlib.contextmanager
def busy(house: Governance) -> Iterator[list[int]]:
    """Reports are booked all the time, each of one request to a model of its own; their statuses."""
    ended = threading.Event()
    booked: list[int] = []

    def write() -> None:
        while not ended.is_set():
            item = {"email": "ana@corp.test", "aiRequests": 1, "model": f"model-{len(booked)}"}
            booked.append(house.book(item, key=f"report-{len(booked)}").status)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield booked
    finally:
        ended.set()
        writer.join(30)
    assert set(booked) == {200}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_backup_of_a_database_in_use(console: Console, database_url: str, tmp_path: Path) -> None:
    """It is one moment of it, whole, in one file that is its owner's alone; reports go on meanwhile."""
    with governance(database_url) as house, busy(house) as booked:

        def back_up(number: int) -> None:
            wait_until(lambda: len(booked) > 5 * number, "reports are booked")
            console.run("backup", f"{number}.db")

        for number in range(5):
            back_up(number)
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == [f"{n}.db" for n in range(5)] + ["governance.db"]
    for number in range(5):
        assert (tmp_path / f"{number}.db").stat().st_mode & 0o777 == 0o600
        with closing(sqlite3.connect(tmp_path / f"{number}.db")) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            # The ledger and the balance are written by one transaction.
            (ledger,) = copy.execute("SELECT sum(requests) FROM ledger").fetchone()
            (balance,) = copy.execute("SELECT sum(requests) FROM balances").fetchone()
            assert ledger == balance > 5 * number
    said = console.fails("backup", "0.db")
    assert said == "there is a file 0.db already; it is left as it is"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_backup_that_cannot_be(console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nothing, or to nowhere: no file is left."""
    assert "No such file" in console.fails("backup", "no/such/folder.db")
    monkeypatch.setenv("GOVERNANCE_DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
    assert "there is no database" in console.fails("backup", "new.db")
    assert not (tmp_path / "none.db").exists()
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_has_its_own_backups(console: Console) -> None:
    """And its name is told."""
    assert "pg_dump" in console.fails("backup", "new.db")


# ------------------------------------------------------------------------------------------------------------- copies


@pytest.fixture
def target_url(request: pytest.FixtureRequest, database_url: str, another: str) -> str:
    """A new database of the other kind."""
    return str(request.getfixturevalue("postgres_url")) if database_url.startswith("sqlite") else another


def rows_of(url: str) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables."""
    database = Database(settings_of(url))
    with database.reading() as connection:
        rows = {
            name: sorted(tuple(row) for row in connection.execute(select(table)))
            for name, table in metadata.tables.items()
        }
    database.close()
    return rows


def test_everything_moves_to_the_other_kind_of_database(
    console: Console, database_url: str, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys open, reports are known again, what was spent is spent; and life goes on there."""
    key = console.run("key", "add", "ana@corp.test")[0].strip()
    report = {"email": "ana@corp.test", "aiRequests": 7, "model": "gpt-4o"}
    with governance(database_url) as house:
        assert house.me(key).status == 200
        answer = house.book(report, key="report-1").json
        proxy = "http://127.0.0.1:9"
        secret = settings_of(database_url, admin_key="a" * 20).admin_key
        assert secret is not None
        teller = Teller(house.service.database, [proxy], secret, house.now)
        teller.register()
        teller.close()
        house.change_user("ana@corp.test", team="red")
    counts = console.json("copy", target_url)["rows"]
    assert counts["plans"] == counts["users"] == 2
    assert rows_of(target_url) == (before := rows_of(database_url))
    assert {name: len(rows) for name, rows in before.items()} == counts
    assert all(counts.values())

    monkeypatch.setenv("GOVERNANCE_DATABASE_URL", target_url)
    with governance(target_url) as house:
        assert house.me(key).status == 200
        assert house.book(report, key="report-1").json == answer
        assert house.used("ana@corp.test") == (7, 0, 0)
        house.book(report)
        assert house.used("ana@corp.test") == (14, 0, 0)
    console.run("plan", "set", "newer")
    console.run("user", "enable", "bo@corp.test")
    with closing(Database(settings_of(target_url))) as database, database.reading() as connection:
        last = connection.execute(select(notices.c.id).order_by(notices.c.id.desc())).scalars().first()
    assert last == max(int(str(row[0])) for row in before["notices"]) + 1
    assert "is not empty: it has plans, users, keys" in console.fails("copy", target_url)
    assert "is not empty" in console.fails("copy", database_url)


def test_a_copy_is_one_moment_of_its_source(console: Console, database_url: str, target_url: str) -> None:
    """Reports are booked before, meanwhile and afterwards; each is in it whole, or not at all."""
    with governance(database_url) as house, busy(house) as booked:
        wait_until(lambda: len(booked) > 5, "reports are booked")
        before = len(booked)
        console.run("copy", target_url)
    rows = rows_of(target_url)
    names = [column.name for column in metadata.tables["balances"].columns]
    (balance,) = (row[names.index("requests")] for row in rows["balances"])
    names = [column.name for column in metadata.tables["ledger"].columns]
    models = [row[names.index("requests")] for row in rows["ledger"]]
    assert len(models) == balance == len(rows["reports"]) >= before


def test_notices_are_numbered_above_what_proxies_know(
    console: Console, database_url: str, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where all of them were forgotten: else proxies would not hear of the next ones."""
    database = Database(settings_of(database_url))
    with database.writing() as connection:
        connection.execute(metadata.tables["notices"].delete())
        connection.execute(metadata.tables["proxies"].insert(), {"url": "http://proxy.test", "told": 41})
    database.close()
    console.run("copy", target_url)
    monkeypatch.setenv("GOVERNANCE_DATABASE_URL", target_url)
    console.run("user", "enable", "bo@corp.test")
    assert [row[0] for row in rows_of(target_url)["notices"]] == [42]


def test_a_copy_that_cannot_be_leaves_nothing(console: Console, target_url: str, another: str) -> None:
    """A target that is away, or has something."""
    said = console.fails("copy", "postgresql://sentinel:secret@127.0.0.1:1/x")
    assert "refused" in said
    assert "secret" not in said
    console.run("copy", target_url)
    assert console.run("copy", target_url, status=1)[0] == ""

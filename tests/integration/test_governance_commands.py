"""The commands `sentinel governance ...`, called in process, on both databases.

Covers `governance/service/commands.py` and `governance/service/usage_report.py`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel.governance.service import arguments, commands
from tests.support.commands import Console, typed
from tests.support.governance import Governance, governance
from tests.support.told_proxy import ADMIN_KEY, Proxy, told_proxy

MONTH = {"email": "ana@corp.test", "aiRequests": 1, "aiInputTokens": 10, "aiOutputTokens": 5}


@pytest.fixture
def console(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    """A terminal with an empty database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOVERNANCE_DATABASE_URL", database_url)
    return Console(capsys)


@pytest.fixture
def house(console: Console, database_url: str) -> Iterator[Governance]:
    """A service on the same database, with a plan and two users."""
    console.run("plan", "set", "team", "--requests", "100", "--models", "gpt-4o*, claude-*")
    console.run("user", "add", "ana@corp.test", "--plan", "team", "--external-id", "ext-ana", "--team", "red")
    console.run("user", "add", "bo@corp.test", "--plan", "team")
    with governance(database_url) as running:
        yield running


def called(of: argparse.ArgumentParser) -> Iterator[str]:
    """The words of all commands that can be typed."""
    groups = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    for deeper in [parser for group in groups for parser in group.choices.values()]:
        yield from called(deeper)
    if not groups:
        yield of.get_default(arguments.OPERATION)


def test_what_can_be_typed_is_what_there_is() -> None:
    """Each command has its function, and each function its command."""
    parser = argparse.ArgumentParser()
    arguments.add_commands(parser)
    assert set(called(parser)) == {"serve", *commands.OPERATIONS}


def test_a_plan_from_its_beginning_to_its_end(console: Console) -> None:
    """New ones are not limited and monthly; what is not given stays."""
    plan = console.json("plan", "set", "team")
    unlimited = {"requests": None, "input_tokens": None, "output_tokens": None}
    assert plan == {"name": "team", **unlimited, "period": "monthly", "models": None, "users": 0}
    options = ("--requests", "1_000", "--input-tokens", "10M", "--period", "daily", "--models", "gpt-4o*,o3")
    plan = console.json("plan", "set", "team", *options)
    assert (plan["requests"], plan["input_tokens"], plan["output_tokens"]) == (1_000, 10_000_000, None)
    assert (plan["period"], plan["models"]) == ("daily", ["gpt-4o*", "o3"])
    plan = console.json("plan", "set", "team", "--requests", "unlimited", "--models", "*")
    assert (plan["requests"], plan["input_tokens"], plan["models"]) == (None, 10_000_000, None)
    assert console.json("plan", "list") == [console.json("plan", "show", "team")]
    listed = console.run("plan", "list")[0].splitlines()
    assert listed[1].split() == ["team", "unlimited", "10000000", "unlimited", "daily", "all", "0"]
    console.run("plan", "delete", "team")
    assert console.json("plan", "list") == []


def test_a_user_from_the_beginning(console: Console) -> None:
    """Added, shown, disabled, enabled, moved."""
    console.run("plan", "set", "team", "--requests", "100")
    console.run("plan", "set", "big")
    added = console.json("user", "add", "Ana@corp.test", "--plan", "team", "--name", "Ana Ö", "--external-id", "e1")
    assert (added["email"], added["plan"], added["name"], added["external_id"]) == (
        "Ana@corp.test",
        "team",
        "Ana Ö",
        "e1",
    )
    assert console.json("user", "disable", "ana@corp.test")["disabled"] is True
    assert console.json("user", "enable", "ANA@corp.test")["disabled"] is False
    assert console.json("user", "set-plan", "ana@corp.test", "big")["plan"] == "big"
    assert console.json("user", "set-team", "ana@corp.test", "red")["team"] == "red"
    assert console.json("user", "set-team", "ana@corp.test", "")["team"] is None
    assert [user["email"] for user in console.json("user", "list")] == ["Ana@corp.test"]
    assert console.json("user", "list", "--plan", "team") == []
    assert "Ana Ö" in console.run("user", "list")[0]


def test_what_a_user_has_used_and_has_left(console: Console, house: Governance) -> None:
    """With the end of the period, and their keys, of which none opens anything."""
    key = console.run("key", "add", "ana@corp.test", "--name", "laptop")[0].strip()
    house.book({**MONTH, "costMicroUsd": 1_500_000})
    shown = console.json("user", "show", "ana@corp.test")
    assert shown["limits"] == {"requests": 100, "input_tokens": None, "output_tokens": None}
    assert shown["used"] == {"requests": 1, "input_tokens": 10, "output_tokens": 5, "cost_usd": "1.500000"}
    assert shown["remaining"] == {"requests": 99, "input_tokens": None, "output_tokens": None}
    assert shown["period_end"].endswith("T23:59:59Z")
    assert [listed["name"] for listed in shown["keys"]] == ["laptop"]
    text = console.run("user", "show", "ana@corp.test")[0]
    lines = [line.split() for line in text.splitlines()]
    assert ["requests", "100", "1", "99"] in lines
    assert ["output", "tokens", "unlimited", "5", "unlimited"] in lines
    assert key not in text + json.dumps(shown)


def test_a_key_is_alone_on_stdout(console: Console, house: Governance) -> None:
    """And opens the door until it is revoked."""
    out, err = console.run("key", "add", "ana@corp.test", "--expires", "90d")
    key = out.removesuffix("\n")
    assert key.startswith("sk-sentinel-")
    assert key not in err
    assert house.me(key).status == 200
    (listed,) = console.json("key", "list", "ana@corp.test")
    assert (listed["revoked_at"], listed["used_at"] is None) == (None, False)
    assert listed["expires_at"] > listed["created_at"]
    assert key not in json.dumps(listed)
    assert listed["id"] in err
    assert console.json("key", "revoke", listed["id"])["revoked_at"] is not None
    assert house.me(key).status == 401
    told = console.json("key", "add", "ana@corp.test")
    assert house.me(told["key"]).status == 200


def test_mistakes_are_told_in_a_line(console: Console, house: Governance) -> None:
    """Status 1, nothing on stdout."""
    assert "no plan 'tem'" in console.fails("user", "add", "cy@corp.test", "--plan", "tem")
    assert "a user 'ANA@corp.test' already" in console.fails("user", "add", "ANA@corp.test", "--plan", "team")
    assert "external id 'ext-ana'" in console.fails(
        "user", "add", "cy@corp.test", "--plan", "team", "--external-id", "ext-ana"
    )
    assert "must be an e-mail address" in console.fails("user", "add", "cy", "--plan", "team")
    assert "no user 'cy@corp.test'" in console.fails("user", "show", "cy@corp.test")
    assert "no plan 'x'" in console.fails("user", "list", "--plan", "x")
    assert "no plan 'x'" in console.fails("plan", "delete", "x")
    assert "2 users have the plan" in console.fails("plan", "delete", "team")
    assert "no key 'key_1'" in console.fails("key", "revoke", "key_1")
    assert "9007199254740991" in console.fails("plan", "set", "team", "--requests", "9007199254740992")


@pytest.mark.parametrize(
    "words",
    [
        "plan set team --period yearly",
        "plan set team --requests=-1",
        "plan set team --req 1",
        "plan set",
        "user add ana@corp.test",
        "key add ana@corp.test --expires 90",
        "usage --by plan",
        "usage --since yesterday",
        "usage --since 2026-02-02 --until 2026-02-01",
        "usage --csv --json",
        "export --json",
        "copy mysql://x/y",
    ],
)
def test_wrong_use_has_a_status_of_its_own(console: Console, words: str) -> None:
    """2, with a word on what is wrong."""
    out, err = console.run(*words.split(), status=2)
    assert (out, "governance" in err) == ("", True)


def test_half_a_command_has_its_help(console: Console) -> None:
    """`sentinel governance`, and each group of commands."""
    assert "usage: sentinel governance [-h] COMMAND" in console.run(status=2)[1]
    assert "usage: sentinel governance plan [-h] ACTION" in console.run("plan", status=2)[1]


def test_usage_is_added_up(console: Console, house: Governance) -> None:
    """By user, team, model or day, of some days or all; costs are exact, and absent where none was told."""
    items: list[dict[str, Any]] = [
        {"email": "ana@corp.test", "model": "gpt-4o", "timestamp": "2026-02-01T10:00:00Z", "costMicroUsd": 1},
        {"email": "ana@corp.test", "model": "o3", "timestamp": "2026-02-02T10:00:00Z", "costMicroUsd": 2_000_000},
        {"email": "bo@corp.test", "timestamp": "2026-02-03T10:00:00Z"},
    ]
    house.book(*({**item, "aiRequests": 1, "aiInputTokens": 10, "aiOutputTokens": 10**12} for item in items))

    def told(*words: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in console.json("usage", *words)]

    assert told() == [
        ("ana@corp.test", 2, 20, 2 * 10**12, "2.000001"),
        ("bo@corp.test", 1, 10, 10**12, None),
    ]
    assert [row[:2] for row in told("--by", "team")] == [(None, 1), ("red", 2)]
    assert [row[:2] for row in told("--by", "model")] == [(None, 1), ("gpt-4o", 1), ("o3", 1)]
    days = [row[:2] for row in told("--by", "day", "--since", "2026-02-01", "--until", "2026-02-02")]
    assert days == [("2026-02-01", 1), ("2026-02-02", 1)]
    assert told("--since", "2026-03-01") == []
    rows = list(csv.DictReader(io.StringIO(console.run("usage", "--by", "model", "--csv")[0])))
    assert [row["cost_usd"] for row in rows] == ["", "0.000001", "2.000000"]
    assert list(rows[0]) == ["model", "requests", "input_tokens", "output_tokens", "cost_usd"]
    lines = [line.split() for line in console.run("usage")[0].splitlines()]
    assert lines[2] == ["bo@corp.test", "1", "10", str(10**12), "-"]
    assert lines[-1] == ["sum", "3", "30", str(3 * 10**12), "2.000001"]


def test_odd_letters_are_shown_and_obeyed_by_nobody(console: Console) -> None:
    """An address may have any, but the terminal is ours."""
    console.run("plan", "set", "größer")
    console.run("user", "add", "jürgen@exämple.test", "--plan", "größer")
    console.run("user", "add", "evil\u202e@corp.test", "--plan", "größer")
    text = console.run("user", "list")[0]
    assert "jürgen@exämple.test" in text
    assert "evil\\u202e@corp.test" in text
    assert "\u202e" not in text + console.run("user", "list", "--json")[0]
    assert console.json("user", "list")[0]["email"] == "evil\u202e@corp.test"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy that hears what it is told."""
    with told_proxy() as proxy:
        yield proxy


def test_proxies_are_told_without_a_service(console: Console, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the command ends; of one that is away it warns, and the next command tells it."""
    console.run("plan", "set", "team")
    console.run("user", "add", "ana@corp.test", "--plan", "team", "--external-id", "ext-ana")
    monkeypatch.setenv("GOVERNANCE_PROXIES", proxy.url)
    assert console.run("user", "disable", "ana@corp.test")[1].startswith("Warning: proxies are not told")
    monkeypatch.setenv("ADMIN_KEY", ADMIN_KEY)
    assert console.run("user", "disable", "ana@corp.test")[1] == ""
    assert proxy.heard == ["ext-ana"]
    console.run("plan", "set", "team", "--requests", "5")
    assert proxy.heard == ["ext-ana", "ext-ana"]
    proxy.status = 503
    assert proxy.url in console.run("user", "enable", "ana@corp.test")[1]
    proxy.status = 200
    assert console.json("user", "show", "ana@corp.test")["disabled"] is False
    assert len(proxy.heard) == 2
    console.run("plan", "set", "another")
    assert proxy.heard == ["ext-ana", "ext-ana", "ext-ana"]


def test_wrong_settings_are_told(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 2."""
    monkeypatch.setenv("GOVERNANCE_DATABASE_URL", "mysql://root:secret@host/x")
    out, err = console.run("plan", "list", status=2)
    assert (out, "GOVERNANCE_DATABASE_URL: must be" in err, "secret" in err) == ("", True, False)


def test_postgresql_that_is_away(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, no password."""
    monkeypatch.setenv("GOVERNANCE_DATABASE_URL", "postgresql://sentinel:secret@127.0.0.1:1/governance")
    said = console.fails("plan", "list")
    assert said.startswith("the database fails: ")
    assert "refused" in said
    assert "secret" not in said


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_locked_database(console: Console, tmp_path: Path) -> None:
    """Whoever reads goes on; whoever writes is told after a while."""
    console.run("plan", "set", "team")
    with closing(sqlite3.connect(tmp_path / "governance.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert [plan["name"] for plan in console.json("plan", "list")] == ["team"]
        assert console.fails("plan", "set", "team") == "the database fails: database is locked"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_the_extra(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and the help is there all the same."""
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "sqlalchemy" or "governance.service" in name
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    err = console.run("plan", "list", status=2)[1]
    assert err == "sqlalchemy is not installed: install Sentinel with its extra `governance`\n"
    assert "COMMAND" in console.run(status=2)[1]


WORDS = st.sampled_from(
    [
        *("plan", "user", "key", "usage", "export", "import", "set", "list", "show", "add", "delete", "disable"),
        *("set-plan", "set-team", "revoke", "--requests", "--models", "--plan", "--json", "--csv", "--by", "day"),
        *("--expires", "1d", "--since", "2026-02-01", "team", "ana@corp.test", "*", "-", "unlimited", "--"),
    ]
)
CALLS = st.sampled_from(sorted(commands.OPERATIONS.keys() - {"export", "import", "backup", "copy"})).flatmap(
    lambda words: st.lists(WORDS | st.text(max_size=12), max_size=4).map(lambda more: [*words.split(), *more])
)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(words=CALLS | st.lists(WORDS | st.text(max_size=12), max_size=6))
def test_any_words_are_answered(console: Console, words: list[str]) -> None:
    """With a status that is one of ours, and never a traceback."""
    assert typed(*words) in (0, 1, 2)

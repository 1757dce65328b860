"""The commands `sentinel governance ...`, on the database, whether or not a service runs.

Each is one function of its arguments (`arguments.py` has these) in one transaction. What was asked for is on stdout,
all else on stderr. What a command changed the proxies of GOVERNANCE_PROXIES are told before it ends; one that is away
is told by the service, as soon as both are there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import Connection

from sentinel.clock import now_ms
from sentinel.config import ConfigError, load
from sentinel.governance.service import api_keys, app, copies, directory, ledger, tables, transfer
from sentinel.governance.service.arguments import OPERATION
from sentinel.governance.service.copies import CopyRefused
from sentinel.governance.service.database import Database, DatabaseUnavailable
from sentinel.governance.service.directory import DirectoryError, Key, Plan, User
from sentinel.governance.service.increments import Amounts, added
from sentinel.governance.service.notices import Teller
from sentinel.governance.service.transfer import ImportMistakes
from sentinel.governance.service.usage_report import report_usage
from sentinel.governance_settings import GovernanceSettings
from sentinel.observability import logs
from sentinel.timestamp import rfc3339

_FAILED, _WRONG_USE = 1, 2
_LIMITS = ("requests", "input_tokens", "output_tokens")
_PLAN = ("name", *_LIMITS, "period", "models", "users")
_USER = ("email", "plan", "team", "name", "external_id", "id", "disabled", "created_at", "seen_at")
_KEY = ("id", "prefix", "name", "created_at", "expires_at", "used_at", "revoked_at")


class WrongUse(Exception):
    """Arguments that do not fit one another, or what is there."""


@dataclasses.dataclass(frozen=True)
class _Call:
    """A command that was called, with the database that it is about."""

    options: argparse.Namespace
    settings: GovernanceSettings
    database: Database

    @contextlib.contextmanager
    def changing(self) -> Iterator[Connection]:
        """A transaction, of which proxies are told once it has ended well. Raises DatabaseUnavailable."""
        with self._told(), self.database.writing() as connection:
            yield connection

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        proxies, key = self.settings.governance_proxies, self.settings.admin_key
        if not proxies or key is None:
            yield
            if proxies:
                _warn("proxies are not told: GOVERNANCE_PROXIES needs ADMIN_KEY, which the proxies have as theirs")
            return
        with contextlib.closing(Teller(self.database, proxies, key, now_ms)) as teller:
            teller.register()
            yield
            try:
                for url in teller.tell_all():
                    _warn(f"{url} cannot be told now; it will be once `sentinel governance serve` runs")
            except DatabaseUnavailable as error:
                _warn(f"proxies cannot be told now ({error}); a running service will")

    def answer(self, row: dict[str, Any]) -> None:
        """Write one thing."""
        _write([tables.json_text(row) + "\n" if self.options.json else tables.record(_for_people(row))])

    def answer_all(self, rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> None:
        """Write many things of one kind."""
        if self.options.json:
            _write(tables.json_array(rows))
        else:
            _write([tables.table([_for_people(row) for row in rows], columns, (*_LIMITS, "users", "rows"))])


def run(options: argparse.Namespace) -> int:
    """Run the command that the arguments name; returns the exit status: 0 done, 1 it failed, 2 used wrongly.

    Raises ConfigError for settings that are wrong.
    """
    settings = load(GovernanceSettings)
    name = getattr(options, OPERATION)
    if name == "serve":
        return _serve(settings)
    with logs.silence():
        try:
            _run(name, options, settings)
            return 0
        except WrongUse as error:
            _tell(f"sentinel governance {name}: {error}")
            return _WRONG_USE
        except ImportMistakes as error:
            _tell(f"nothing was imported from {options.file}:", *error.lines())
        except (DirectoryError, CopyRefused) as error:
            _tell(str(error))
        except DatabaseUnavailable as error:
            _tell(f"the database fails: {_reason(error)}")
        except BrokenPipeError:
            # Whoever reads us has enough, as `head` has.
            _forget_output()
        except (OSError, sqlite3.Error) as error:
            _tell(f"{name} failed: {error}")
            _forget_output()
        return _FAILED


def _run(name: str, options: argparse.Namespace, settings: GovernanceSettings) -> None:
    database = Database(settings)
    try:
        # A backup is taken of a database as it is, before it is changed for this version.
        if name != "backup":
            database.migrate()
        OPERATIONS[name](_Call(options, settings, database))
        sys.stdout.flush()
    finally:
        database.close()


def _serve(settings: GovernanceSettings) -> int:
    writer = logs.configure(settings.log_level)
    try:
        return app.serve(settings)
    finally:
        writer.close()


def _reason(error: DatabaseUnavailable) -> str:
    """In words: what the driver says first. It names no password, and no value of a row."""
    cause = getattr(error.__cause__, "orig", None)
    if cause is None:
        return str(error)
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)
    said = primary or next(iter(str(cause).splitlines()), "")
    return tables.shown(said or str(error))


# -------------------------------------------------------------------------------------------------------------- plans


def _set_plan(call: _Call) -> None:
    fields = [name for name in ("period", "models", *_LIMITS) if hasattr(call.options, name)]
    changes = {name: getattr(call.options, name) for name in fields}
    with call.changing() as connection:
        plan = directory.set_plan(connection, call.options.name, changes, now_ms())
    call.answer(_of_plan(plan))


def _list_plans(call: _Call) -> None:
    with call.database.reading() as connection:
        call.answer_all(map(_of_plan, directory.list_plans(connection)), _PLAN)


def _show_plan(call: _Call) -> None:
    with call.database.reading() as connection:
        plan = directory.plan(connection, call.options.name)
    call.answer(_of_plan(plan))


def _delete_plan(call: _Call) -> None:
    with call.changing() as connection:
        directory.delete_plan(connection, call.options.name)
    call.answer({"deleted": call.options.name})


# -------------------------------------------------------------------------------------------------------------- users


def _add_user(call: _Call) -> None:
    options = call.options
    more = {name: getattr(options, name) for name in ("external_id", "name", "team")}
    with call.changing() as connection:
        user = directory.add_user(connection, options.email, options.plan, now_ms(), **more)
    call.answer(_of_user(user))


def _list_users(call: _Call) -> None:
    with call.database.snapshot() as connection:
        if (plan := call.options.plan) is not None:
            directory.plan(connection, plan)
        call.answer_all(map(_of_user, transfer.every_user(connection, plan)), _USER)


def _show_user(call: _Call) -> None:
    email = call.options.email
    with call.database.snapshot() as connection:
        user = directory.user(connection, email)
        account = ledger.account_by_email(connection, email, now_ms())
        assert account is not None
        used = ledger.spent(connection, [account])[account.user_id]
        keys = directory.list_keys(connection, email)
    end = account.period.last_second
    row = {
        **_of_user(user),
        "period": account.period.kind,
        "period_end": None if end is None else end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    limits, spent = dict(zip(_LIMITS, account.limits, strict=True)), dict(zip(_LIMITS, used, strict=False))
    left = {name: None if limit is None else max(0, limit - spent[name]) for name, limit in limits.items()}
    cost = tables.usd(used[3])
    if call.options.json:
        more = {"limits": limits, "used": {**spent, "cost_usd": cost}, "remaining": left, "keys": [*map(_of_key, keys)]}
        call.answer({**row, **more})
        return
    amounts = [
        _for_people({"": name.replace("_", " "), "limit": limits[name], "used": spent[name], "remaining": left[name]})
        for name in _LIMITS
    ]
    columns = ("", "limit", "used", "remaining")
    written = [tables.record({**row, "cost_usd": cost}), "\n", tables.table(amounts, columns, columns[1:])]
    _write([*written, "\n", tables.table([*map(_of_key, keys)], _KEY)] if keys else written)


def _change_user(call: _Call, **changes: Any) -> None:
    with call.changing() as connection:
        user = directory.change_user(connection, call.options.email, now_ms(), **changes)
    call.answer(_of_user(user))


# --------------------------------------------------------------------------------------------------------------- keys


def _add_key(call: _Call) -> None:
    options, new, moment = call.options, api_keys.new_key(), now_ms()
    expires_ms = None if options.expires is None else moment + options.expires
    with call.changing() as connection:
        key = directory.add_key(connection, options.email, new, moment, name=options.name, expires_ms=expires_ms)
    row = _of_key(key)
    # Before the key: if that cannot be written, it is known which one to revoke.
    _tell(f"{key.id} of {key.email}, expires: {row['expires_at'] or 'never'}; it is not shown again")
    _write([tables.json_text({"key": new.key, "email": key.email, **row}) if options.json else new.key, "\n"])


def _list_keys(call: _Call) -> None:
    with call.database.reading() as connection:
        call.answer_all(map(_of_key, directory.list_keys(connection, call.options.email)), _KEY)


def _revoke_key(call: _Call) -> None:
    with call.changing() as connection:
        key = directory.revoke_key(connection, call.options.id, now_ms())
    call.answer({"email": key.email, **_of_key(key)})


# -------------------------------------------------------------------------------------------------------------- books


def _show_usage(call: _Call) -> None:
    options = call.options
    if options.csv and options.json:
        raise WrongUse("--csv and --json: either")
    if options.since and options.until and options.since > options.until:
        raise WrongUse("--since is after --until")
    columns = (options.by, *_LIMITS, "cost_usd")
    with call.database.snapshot() as connection:
        lines = report_usage(connection, options.by, since=options.since, until=options.until)
        if options.csv or options.json:
            rows = (_of_usage(options.by, line.group or None, line.amounts) for line in lines)
            _write(tables.csv_lines(rows, columns) if options.csv else tables.json_array(rows))
            return
        rows_shown, sums = [], ledger.NOTHING
        for line in lines:
            rows_shown.append(_of_usage(options.by, line.group, line.amounts))
            sums = added(sums, line.amounts)
    _write([tables.table(rows_shown, columns, columns[1:], _of_usage(options.by, "sum", sums))])


def _of_usage(by: str, group: str | None, amounts: Amounts) -> dict[str, Any]:
    *spent, cost = amounts
    return {by: group, **dict(zip(_LIMITS, spent, strict=True)), "cost_usd": tables.usd(cost)}


def _export(call: _Call) -> None:
    options = call.options
    target = None if options.file in (None, "-") else Path(options.file)
    if options.json and target is None:
        raise WrongUse("--json tells what was written, which needs FILE; --format json is how it is written")
    in_csv = (options.format or (target and target.suffix[1:].lower())) == "csv"
    counts = {"plans": 0, "users": 0}

    def counted(entries: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for entry in entries:
            counts[f"{entry['kind']}s"] += 1
            yield entry

    with call.database.snapshot() as connection:
        entries = counted(transfer.entries_of(connection))
        if in_csv:
            text = tables.csv_lines(map(transfer.in_csv, entries), transfer.COLUMNS)
        else:
            text = (tables.json_text(entry) + "\n" for entry in entries)
        if target is None:
            _write(text)
            return
        with _new_file(target) as file:
            file.writelines(text)
    call.answer(counts)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """For its owner alone, never in the place of another, and gone if it does not become whole. Raises OSError."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(opened, "w", encoding="utf-8", newline="") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _import(call: _Call) -> None:
    file = call.options.file
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    entries = transfer.read_entries(data)
    with call.changing() as connection:
        counts = transfer.take_entries(connection, entries, now_ms(), update=call.options.update)
    call.answer(counts)


def _back_up(call: _Call) -> None:
    source, target = call.database.file, Path(call.options.file)
    if source is None:
        raise CopyRefused("this database is PostgreSQL: use pg_dump, which makes a backup while it is in use")
    call.answer({"file": str(target), "bytes": copies.back_up(source, target)})


def _copy(call: _Call) -> None:
    try:
        target = Database(load(GovernanceSettings, governance_database_url=call.options.url))
        with contextlib.closing(target):
            target.migrate()
            counts = copies.copy_all(call.database, target)
    except ConfigError as error:
        raise WrongUse(error.mistakes[0].replace("GOVERNANCE_DATABASE_URL", "URL")) from None
    if call.options.json:
        call.answer({"rows": counts})
    else:
        call.answer_all([{"table": name, "rows": count} for name, count in counts.items()], ("table", "rows"))


# ------------------------------------------------------------------------------------------------- rows, as JSON is


def _of_plan(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in _PLAN}


def _of_user(user: User) -> dict[str, Any]:
    return _row(user, _USER)


def _of_key(key: Key) -> dict[str, Any]:
    return _row(key, _KEY)


def _row(of: User | Key, fields: tuple[str, ...]) -> dict[str, Any]:
    """Moments are `created_ms` there, and `created_at` in what we tell."""
    return {name: _moment(of, name) if name.endswith("_at") else getattr(of, name) for name in fields}


def _moment(of: User | Key, name: str) -> str | None:
    milliseconds = getattr(of, name.replace("_at", "_ms"))
    return None if milliseconds is None else rfc3339(milliseconds)


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    """What none means is in the name of the field."""
    said = {"requests": "unlimited", "input_tokens": "unlimited", "output_tokens": "unlimited", "models": "all"}
    said |= {"limit": "unlimited", "remaining": "unlimited"}
    return {name: said.get(name) if value is None else value for name, value in row.items()}


# -------------------------------------------------------------------------------------------------------------- output


def _write(text: Iterable[str]) -> None:
    sys.stdout.writelines(text)
    sys.stdout.flush()


def _forget_output() -> None:
    """Let nobody fail once more, who flushes what is left."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(*lines: str) -> None:
    # Nobody may be there to be told.
    with contextlib.suppress(OSError):
        sys.stderr.writelines(f"{line}\n" for line in lines)
        sys.stderr.flush()


def _warn(line: str) -> None:
    _tell(f"Warning: {line}.")


OPERATIONS: dict[str, Callable[[_Call], None]] = {
    "plan set": _set_plan,
    "plan list": _list_plans,
    "plan show": _show_plan,
    "plan delete": _delete_plan,
    "user add": _add_user,
    "user list": _list_users,
    "user show": _show_user,
    "user disable": lambda call: _change_user(call, disabled=True),
    "user enable": lambda call: _change_user(call, disabled=False),
    "user set-plan": lambda call: _change_user(call, plan_name=call.options.name),
    "user set-team": lambda call: _change_user(call, team=call.options.name or None),
    "key add": _add_key,
    "key list": _list_keys,
    "key revoke": _revoke_key,
    "usage": _show_usage,
    "export": _export,
    "import": _import,
    "backup": _back_up,
    "copy": _copy,
}
"""By the words of the command, as `arguments.py` notes them."""

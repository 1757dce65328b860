"""Plans and users as files, out of a database and into one: CSV, or JSON Lines (one object a line).

Both have the same fields. `kind` says what a line is; `plan` is the name of a plan, or of a user's plan. Limits are
numbers (JSON: null, CSV: `unlimited` = none), `models` a list of globs (JSON: null, CSV: `*` = all; CSV parts them by
spaces). What a line does not say stays as it is, and is the default where it is new.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection

from sentinel.governance.service import directory
from sentinel.governance.service.arguments import read_amount, read_models, read_text
from sentinel.governance.service.directory import DirectoryError, Duplicate, Invalid, NotFound, User, email_key
from sentinel.governance.service.schema import users

_LIMITS = ("requests", "input_tokens", "output_tokens")
_FIELDS = {
    "plan": ("plan", *_LIMITS, "period", "models"),
    "user": ("email", "plan", "name", "team", "external_id", "disabled"),
}
_NAMED_BY = {"plan": "plan", "user": "email"}
COLUMNS = ("kind", "plan", "email", "name", "team", "external_id", "disabled", *_LIMITS, "period", "models")
_AT_ONCE = 1_000
_MOST_MISTAKES = 20
"""Shown of one file: who has more will read it anew anyway."""


class ImportMistakes(Exception):
    """A file that cannot be taken; mistakes: by line, 0 = of the file as a whole."""

    def __init__(self, mistakes: list[tuple[int, str]]) -> None:
        super().__init__(f"{len(mistakes)} mistakes")
        self.mistakes = sorted(mistakes)

    def lines(self) -> list[str]:
        """The first of them, for people."""
        told = [f"line {line}: {text}" if line else text for line, text in self.mistakes[:_MOST_MISTAKES]]
        more = len(self.mistakes) - len(told)
        return [*told, f"and {more} more"] if more else told


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of such a file. fields: what it says, by the names of its kind, with the one that names it."""

    line: int
    kind: str
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """The plan's name, or the user's e-mail address."""
        return str(self.fields[_NAMED_BY[self.kind]])

    @property
    def place(self) -> tuple[str, str]:
        """What no two lines of a file may have in common."""
        return self.kind, email_key(self.name) if self.kind == "user" else self.name


# ------------------------------------------------------------------------------------------------------------ export


def entries_of(connection: Connection) -> Iterator[dict[str, Any]]:
    """All plans, then all users, as JSON has them, as they are read."""
    for plan in directory.list_plans(connection):
        limits = {name: getattr(plan, name) for name in _LIMITS}
        yield {"kind": "plan", "plan": plan.name, **limits, "period": plan.period, "models": plan.models}
    for user in every_user(connection):
        yield {"kind": "user", **{name: getattr(user, name) for name in _FIELDS["user"]}}


def every_user(connection: Connection, plan_name: str | None = None) -> Iterator[directory.User]:
    """All users, or those of one plan, by e-mail address, as they are read."""
    after = ""
    while page := directory.list_users(connection, after=after, limit=_AT_ONCE, plan_name=plan_name):
        yield from page
        after = page[-1].email


def in_csv(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as its cells."""
    cells = dict(entry)
    if entry["kind"] == "plan":
        models = entry["models"]
        cells |= {name: "unlimited" for name in _LIMITS if entry[name] is None}
        cells["models"] = "*" if models is None else " ".join(models) or "-"
    else:
        cells["disabled"] = "yes" if entry["disabled"] else "no"
    return cells


# -------------------------------------------------------------------------------------------------------------- read


def read_entries(data: bytes) -> list[Entry]:
    """The entries of a file. Raises ImportMistakes with every mistake that shows without a database."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImportMistakes([(data.count(b"\n", 0, error.start) + 1, "is not UTF-8")]) from None
    read = _json_rows if text.lstrip().startswith(("{", "[")) else _csv_rows
    entries: list[Entry] = []
    mistakes: list[tuple[int, str]] = []
    first: dict[tuple[str, str], int] = {}
    for line, row in read(text):
        try:
            entry = _entry(line, row())
        except ValueError as error:
            mistakes.append((line, str(error)))
            continue
        if (before := first.setdefault(entry.place, line)) != line:
            mistakes.append((line, f"{entry.name!a} is in line {before} already"))
        entries.append(entry)
    if mistakes:
        raise ImportMistakes(mistakes)
    return entries


Row = Callable[[], dict[str, Any]]
"""What a line says. Raises ValueError: so a mistake in one keeps nobody from reading the others."""


def _json_rows(text: str) -> Iterator[tuple[int, Row]]:
    for line, written in enumerate(text.split("\n"), 1):
        if written.strip():
            yield line, lambda written=written: _json_row(written)  # type: ignore[misc]


def _json_row(written: str) -> dict[str, Any]:
    try:
        row = msgspec.json.decode(written)
    except (msgspec.DecodeError, RecursionError):
        row = None
    if isinstance(row, dict):
        return row
    raise ValueError("must be one JSON object, as `export` writes them")


def _csv_rows(text: str) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    for line in (reader.line_num + 1 for _ in itertools.count()):
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # What follows an open quotation mark is anybody's guess.
            raise ImportMistakes([(line, f"is not CSV: {error}")]) from None
        if columns is None:
            columns = [cell.strip() for cell in cells]
            _check_columns(columns)
        elif any(cell.strip() for cell in cells):
            yield line, lambda cells=cells, columns=columns: _csv_row(columns, cells)  # type: ignore[misc]


def _check_columns(columns: list[str]) -> None:
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown or "kind" not in columns or len(set(columns)) < len(columns):
        told = f"{', '.join(map(ascii, unknown))}: no such column; " if unknown else ""
        raise ImportMistakes([(1, f"{told}must have the columns {','.join(COLUMNS)}, each once; `kind` at least")])


def _csv_row(columns: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise ValueError(f"has {len(cells)} cells for {len(columns)} columns")
    said = ((column, cell.strip()) for column, cell in zip(columns, cells, strict=True))
    return {column: _from_cell(column, cell) for column, cell in said if cell}


def _from_cell(column: str, cell: str) -> Any:
    try:
        if column in _LIMITS:
            return read_amount(cell)
        if column == "models":
            return _listed(read_models(cell.split()))
        if column == "disabled":
            return {"yes": True, "no": False, "true": True, "false": False}[cell.lower()]
    except KeyError:
        raise ValueError("disabled must be yes or no") from None
    except ValueError as error:
        raise ValueError(f"{column} {error}") from None
    return cell


def _listed(models: tuple[str, ...] | None) -> list[str] | None:
    return None if models is None else list(models)


def _entry(line: int, row: dict[str, Any]) -> Entry:
    kind = row.pop("kind", None)
    if kind not in ("plan", "user"):
        raise ValueError("kind must be plan or user")
    if unknown := [name for name in row if name not in _FIELDS[kind]]:
        raise ValueError(f"a {kind} has no {', '.join(map(ascii, unknown))}")
    for name, value in row.items():
        _check_type(name, value)
    if _NAMED_BY[kind] not in row:
        raise ValueError(f"a {kind} needs `{_NAMED_BY[kind]}`")
    return Entry(line, kind, row)


def _check_type(name: str, value: Any) -> None:
    """Of JSON, where it is anything; the directory says what is wrong with a value of the right type."""
    if isinstance(value, str) and name not in ("disabled", "models", *_LIMITS):
        try:
            read_text(value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    elif name == "disabled" and not isinstance(value, bool):
        raise ValueError("disabled must be true or false")
    elif name == "models" and value is not None and not isinstance(value, list):
        raise ValueError("models must be a list, or null for all")
    elif name in ("plan", "email", "period") or (name in ("name", "team", "external_id") and value is not None):
        raise ValueError(f"{name} must be a text")


# ------------------------------------------------------------------------------------------------------------ import


def take_entries(connection: Connection, entries: list[Entry], now_ms: int, *, update: bool) -> dict[str, int]:
    """Add them all, plans first; returns how many were added and changed.

    update: what there is already is changed; without it that is a mistake. Raises ImportMistakes, and the caller's
    transaction must end without a trace then.
    """
    intake = _Intake(connection, now_ms, update)
    for entry in entries:
        if entry.kind == "plan":
            intake.take(entry, intake.plan)
    intake.know([entry for entry in entries if entry.kind == "user"])
    for entry in entries:
        if entry.kind == "user":
            intake.take(entry, intake.user)
    if intake.mistakes:
        raise ImportMistakes(intake.mistakes)
    directory.add_users(connection, intake.new_users)
    return intake.counts


class _Intake:
    """Takes one entry after another. Users are looked up before, and added behind, all at once: others may wait."""

    def __init__(self, connection: Connection, now_ms: int, update: bool) -> None:
        self._connection = connection
        self._now_ms = now_ms
        self._update = update
        self._known: dict[str, User] = {}
        self._external_ids: set[str] = set()
        self._plan_ids: dict[str, int] = {}
        self.new_users: list[dict[str, Any]] = []
        self.mistakes: list[tuple[int, str]] = []
        self.counts = {"plans_added": 0, "plans_changed": 0, "users_added": 0, "users_changed": 0}

    def take(self, entry: Entry, taken: Callable[[Entry], str | None]) -> None:
        """Take an entry, or note what is wrong with it."""
        try:
            outcome = taken(entry)
        except DirectoryError as error:
            self.mistakes.append((entry.line, error.message))
            return
        if outcome is not None:
            self.counts[f"{entry.kind}s_{outcome}"] += 1

    def plan(self, entry: Entry) -> str | None:
        """What became of a plan, None if nothing has."""
        fields = {name: value for name, value in entry.fields.items() if name != "plan"}
        try:
            found = directory.plan(self._connection, entry.name)
        except NotFound:
            directory.set_plan(self._connection, entry.name, fields, self._now_ms)
            return "added"
        if not self._update:
            raise Duplicate(f"there is a plan {entry.name!r} already", "plan")
        changes = {name: value for name, value in fields.items() if _of_json(getattr(found, name)) != value}
        if not changes:
            return None
        directory.set_plan(self._connection, entry.name, changes, self._now_ms)
        return "changed"

    def know(self, entries: list[Entry]) -> None:
        """Look up what there is of these users, once all plans are there."""
        external_ids = [name for entry in entries if (name := entry.fields.get("external_id")) is not None]
        by_email = directory.find_users(self._connection, users.c.email_key, [entry.place[1] for entry in entries])
        self._known = {email_key(user.email): user for user in by_email}
        by_id = directory.find_users(self._connection, users.c.external_id, external_ids)
        self._external_ids = {user.external_id for user in by_id if user.external_id is not None}
        self._plan_ids = directory.plan_ids(self._connection)

    def user(self, entry: Entry) -> str | None:
        """What becomes of a user, None if nothing does."""
        found = self._known.get(entry.place[1])
        if found is None:
            self.new_users.append(self._new(**entry.fields))
            return "added"
        if not self._update:
            raise Duplicate(f"there is a user {entry.name!r} already", "email")
        changes = {name: value for name, value in entry.fields.items() if getattr(found, name) != value}
        changes.pop("email", None)
        if "external_id" in changes:
            raise Invalid("the external id of a user who is there cannot be changed", "external_id")
        if "plan" in changes:
            changes["plan_name"] = changes.pop("plan")
        if not changes:
            return None
        directory.change_user(self._connection, entry.name, self._now_ms, **changes)
        return "changed"

    def _new(self, email: str, plan: str | None = None, external_id: str | None = None, **more: Any) -> dict[str, Any]:
        if plan is None:
            raise Invalid("a new user needs `plan`", "plan")
        if plan not in self._plan_ids:
            raise NotFound(f"there is no plan {plan!r}", "plan")
        if external_id in self._external_ids:
            raise Duplicate(f"another user has the external id {external_id!r}", "external_id")
        row = directory.user_row(email, self._plan_ids[plan], self._now_ms, external_id=external_id, **more)
        if external_id is not None:
            self._external_ids.add(external_id)
        return row


def _of_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

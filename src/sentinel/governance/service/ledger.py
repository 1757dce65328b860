"""The books: usage by user, day and model, and what each user has spent in the current period.

A report is one transaction: all of its items that can be booked are, and its answer is kept under its Idempotency-Key,
so that the same report is never booked twice. The users of a report are locked first, in the order of their ids
(PostgreSQL; SQLite has one writer), so what is read of them stays true until it is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select, update

from sentinel.governance.service.database import Database
from sentinel.governance.service.directory import email_key
from sentinel.governance.service.increments import Amounts, BadIncrement, Increment, added
from sentinel.governance.service.periods import Period, period_at
from sentinel.governance.service.schema import AMOUNTS, balances, ledger, plans, reports, users

REPORTS_KEPT_MS = 30 * 86_400_000
"""So long a report that comes again is known. A proxy that was cut off for longer asks what has become of it."""
_AT_ONCE = 500
"""Users in one statement: far below what both databases take."""

NOTHING: Amounts = (0, 0, 0, 0)
MOST_BOOKED = 2**53 - 1
"""In a user's period, and in a row of the ledger: the largest sum that every reader of JSON takes for what it is."""

Place = tuple[str, date, str]
"""Where the ledger has an increment: user's id, day, model."""


class KeyReused(Exception):
    """An Idempotency-Key came again with another report."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user's limits (None: none) and their period. identity: the user's at proxies."""

    user_id: str
    email: str
    identity: str
    limits: tuple[int | None, int | None, int | None]
    period: Period
    disabled: bool


@dataclass(frozen=True, slots=True)
class Booked:
    """What became of an increment.

    error: why it is not booked; bad: for what it says. used: what its user has spent in the period then.
    """

    email: str
    error: str | None = None
    bad: bool = False
    used: Amounts = NOTHING
    account: Account | None = None


def book(
    database: Database, connection: Connection, items: Sequence[Increment | BadIncrement], now_ms: int
) -> list[Booked]:
    """Book the items of a report; what became of each, in their order. An error of one keeps no other from it."""
    increments = [item for item in items if isinstance(item, Increment)]
    accounts = _locked_accounts(database, connection, {email_key(item.email) for item in increments}, now_ms)
    used = spent(connection, accounts.values())
    elsewhere = _booked_elsewhere(connection, increments, accounts)
    entries: dict[Place, Amounts] = defaultdict(lambda: NOTHING)
    booked: list[Booked] = []
    for item in items:
        if isinstance(item, BadIncrement):
            booked.append(Booked(item.email, str(item), bad=True))
            continue
        account = accounts.get(email_key(item.email))
        if account is None:
            booked.append(Booked(item.email, "user unknown"))
            continue
        place = account.user_id, item.day, item.model
        entry = added(entries[place], item.amounts)
        # What is booked on a day of the period is a part of what is used in it.
        counts = account.period.has(item.day)
        total = added(used[account.user_id], item.amounts) if counts else added(elsewhere[place], entry)
        if max(total) > MOST_BOOKED:
            booked.append(Booked(item.email, f"the user's sum would be more than {MOST_BOOKED}", bad=True))
            continue
        entries[place] = entry
        if counts:
            used[account.user_id] = total
        booked.append(Booked(item.email, used=used[account.user_id], account=account))
    if entries:
        _enter(database, connection, entries)
        _keep_balances(database, connection, accounts.values(), used)
    return booked


def _booked_elsewhere(
    connection: Connection, increments: Iterable[Increment], accounts: Mapping[str, Account]
) -> dict[Place, Amounts]:
    """What is booked already on the days of these increments that are not of their user's current period."""
    days: dict[str, set[date]] = defaultdict(set)
    for item in increments:
        account = accounts.get(email_key(item.email))
        if account is not None and not account.period.has(item.day):
            days[account.user_id].add(item.day)
    booked: dict[Place, Amounts] = defaultdict(lambda: NOTHING)
    for ids in _portions(sorted(days)):
        wanted = sorted(set().union(*(days[user_id] for user_id in ids)))
        query = select(ledger).where(ledger.c.user_id.in_(ids), ledger.c.day.in_(wanted))
        for row in connection.execute(query):
            booked[row.user_id, row.day, row.model] = _amounts(row)
    return booked


def _amounts(row: Any) -> Amounts:
    return row.requests, row.input_tokens, row.output_tokens, row.cost_micro_usd


def _enter(database: Database, connection: Connection, entries: Mapping[Place, Amounts]) -> None:
    statement = database.insert_all(ledger)
    statement = statement.on_conflict_do_update(
        index_elements=[ledger.c.user_id, ledger.c.day, ledger.c.model],
        set_={name: ledger.c[name] + statement.excluded[name] for name in AMOUNTS},
    )
    rows = [(*place, *amounts) for place, amounts in sorted(entries.items())]
    connection.execute(statement, {"rows": _json(rows)})


def _keep_balances(
    database: Database, connection: Connection, accounts: Iterable[Account], used: Mapping[str, Amounts]
) -> None:
    statement = database.insert_all(balances)
    names = ("period", "start", *AMOUNTS)
    statement = statement.on_conflict_do_update(
        index_elements=[balances.c.user_id], set_={name: statement.excluded[name] for name in names}
    )
    rows = [
        (account.user_id, account.period.kind, account.period.start, *used[account.user_id]) for account in accounts
    ]
    connection.execute(statement, {"rows": _json(rows)})


def _json(rows: Sequence[tuple[Any, ...]]) -> str:
    return msgspec.json.encode(rows).decode()


def spent(connection: Connection, accounts: Iterable[Account]) -> dict[str, Amounts]:
    """What each user has spent in their current period, by the user's id."""
    wanted = {account.user_id: account.period for account in accounts}
    used: dict[str, Amounts] = {}
    for ids in _portions(sorted(wanted)):
        for row in connection.execute(select(balances).where(balances.c.user_id.in_(ids))).all():
            period = wanted[row.user_id]
            if (row.period, row.start) == (period.kind, period.start):
                used[row.user_id] = _amounts(row)
    # Who has begun a new period, or was given another kind of it.
    anew: dict[Period, list[str]] = defaultdict(list)
    for user_id, period in wanted.items():
        if user_id not in used:
            anew[period].append(user_id)
    for period, ids in anew.items():
        used |= dict.fromkeys(ids, NOTHING) | _added_up(connection, period, ids)
    return used


def _added_up(connection: Connection, period: Period, user_ids: Sequence[str]) -> dict[str, Amounts]:
    sums = [func.sum(ledger.c[name]) for name in AMOUNTS]
    used: dict[str, Amounts] = {}
    for ids in _portions(user_ids):
        query = select(ledger.c.user_id, *sums).where(ledger.c.user_id.in_(ids), ledger.c.day >= period.start)
        if period.next_start is not None:
            query = query.where(ledger.c.day < period.next_start)
        for user_id, requests, inputs, outputs, cost in connection.execute(query.group_by(ledger.c.user_id)):
            used[user_id] = int(requests), int(inputs), int(outputs), int(cost)
    return used


_ACCOUNT = (
    select(
        *(users.c.id, users.c.email, users.c.email_key, users.c.external_id, users.c.disabled),
        *(plans.c.requests, plans.c.input_tokens, plans.c.output_tokens, plans.c.period),
    )
    .join_from(users, plans)
    .order_by(users.c.id)
)


def _locked_accounts(
    database: Database, connection: Connection, email_keys: Iterable[str], now_ms: int
) -> dict[str, Account]:
    """The accounts of these addresses, by their keys, which nobody else changes until the transaction ends."""
    if not database.is_sqlite:
        lock = select(users.c.id).where(users.c.email_key.in_(sorted(email_keys))).order_by(users.c.id)
        connection.execute(lock.with_for_update())
    found: dict[str, Account] = {}
    for portion in _portions(sorted(email_keys)):
        for row in connection.execute(_ACCOUNT.where(users.c.email_key.in_(portion))).all():
            found[row.email_key] = _account(row, now_ms)
    return found


def account_of(connection: Connection, identity: str, now_ms: int) -> Account | None:
    """The account of the user whom proxies know by this name: the external id, else the id; None if there is none."""
    if "\x00" in identity:
        # No database has it in a text, and PostgreSQL takes none in a question.
        return None
    found = connection.execute(_ACCOUNT.where((users.c.external_id == identity) | (users.c.id == identity)))
    # Somebody's external id may be another's id: who is known by it comes first.
    rows = sorted(found, key=lambda row: row.external_id != identity)
    return _account(rows[0], now_ms) if rows else None


def account_by_email(connection: Connection, email: str, now_ms: int) -> Account | None:
    """The account of this address, None if there is none."""
    row = connection.execute(_ACCOUNT.where(users.c.email_key == email_key(email))).first()
    return None if row is None else _account(row, now_ms)


def _account(row: Any, now_ms: int) -> Account:
    return Account(
        user_id=row.id,
        email=row.email,
        identity=row.external_id or row.id,
        limits=(row.requests, row.input_tokens, row.output_tokens),
        period=period_at(row.period, now_ms),
        disabled=row.disabled,
    )


def _portions(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


# ----------------------------------------------------------------------------------------------------------- reports


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a report: its status and its body."""

    status: int
    body: bytes


def begin_report(database: Database, connection: Connection, key: str, digest: bytes, now_ms: int) -> Answered | None:
    """Take this Idempotency-Key for a report; None if it is new, else the answer that was given first.

    digest: of the report. Waits for another transaction that has the same key. Raises KeyReused.
    """
    statement = database.upsert(reports).on_conflict_do_nothing(index_elements=[reports.c.key])
    # What comes back tells whether it was new: not every driver counts the rows of an INSERT.
    statement = statement.returning(reports.c.key)
    taken = connection.execute(statement, {"key": key, "digest": digest, "status": 0, "answer": b"", "at_ms": now_ms})
    if taken.scalar() is not None:
        return None
    first = connection.execute(select(reports).where(reports.c.key == key)).one()
    if bytes(first.digest) != digest:
        raise KeyReused
    return Answered(first.status, bytes(first.answer))


def keep_answer(connection: Connection, key: str, answer: Answered) -> None:
    """Keep the answer to the report that has this key."""
    statement = update(reports).where(reports.c.key == bindparam("of"))
    connection.execute(statement, {"of": key, "status": answer.status, "answer": answer.body})


def forget_reports(connection: Connection, now_ms: int, most: int = 1_000) -> int:
    """Forget reports that are too old to come again, no more than `most` at once; returns how many."""
    old = select(reports.c.key).where(reports.c.at_ms < now_ms - REPORTS_KEPT_MS).limit(most)
    return connection.execute(delete(reports).where(reports.c.key.in_(old))).rowcount

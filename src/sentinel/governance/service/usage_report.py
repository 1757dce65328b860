"""The ledger, added up: by user, team, model or day. The database groups and sorts; rows come as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, func, select

from sentinel.governance.service.directory import Invalid, email_key
from sentinel.governance.service.increments import Amounts
from sentinel.governance.service.schema import AMOUNTS, ledger, users

By = Literal["user", "team", "model", "day"]
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class UsageLine:
    """What one user, team, model or day has spent.

    group: the e-mail address, team, model, or day (as YYYY-MM-DD); empty for users without a team, and for usage of
    which no model was told.
    """

    group: str
    amounts: Amounts


def report_usage(
    connection: Connection,
    by: By,
    *,
    since: date | None = None,
    until: date | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> Iterator[UsageLine]:
    """Usage from the day `since` to the day `until`, both included, in the order of its groups.

    after: the group behind which to begin, None = with the first. limit: of lines, None = all of them.
    The connection is taken until the last line was read. Raises Invalid (`after` is no day where lines are days).
    """
    shown, order = _group(by)
    sums = [func.sum(ledger.c[name]) for name in AMOUNTS]
    query = select(shown, *sums).join_from(ledger, users).group_by(order, shown).order_by(order).limit(limit)
    if since is not None:
        query = query.where(ledger.c.day >= since)
    if until is not None:
        query = query.where(ledger.c.day <= until)
    if after is not None:
        query = query.where(order > _place(by, after))
    rows = connection.execute(query.execution_options(yield_per=_AT_ONCE))
    return (UsageLine(str(group), _amounts(sums)) for group, *sums in rows)


def _group(by: By) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """What a group is shown as, and what it is sorted by."""
    if by == "user":
        return users.c.email, users.c.email_key
    group: ColumnElement[Any] = {
        "team": func.coalesce(users.c.team, ""),
        "model": ledger.c.model,
        "day": ledger.c.day,
    }[by]
    return group, group


def _place(by: By, after: str) -> str | date:
    if by == "user":
        return email_key(after)
    if by != "day":
        return after
    try:
        return date.fromisoformat(after)
    except ValueError as error:
        raise Invalid("after must be a day, such as 2026-02-03", "after") from error


def _amounts(sums: list[Any]) -> Amounts:
    # PostgreSQL adds up to decimals.
    requests, inputs, outputs, cost = (int(each) for each in sums)
    return requests, inputs, outputs, cost

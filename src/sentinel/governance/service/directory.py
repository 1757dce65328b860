"""Plans, users and their keys: what commands and the admin API do, each function in its caller's transaction.

Whatever changes what a user may do leaves a notice, in the same transaction, which proxies are told (notices.py).
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, func, insert, literal, select, text, update
from sqlalchemy.exc import IntegrityError

from sentinel.governance.service import api_keys
from sentinel.governance.service.periods import KINDS, PeriodKind
from sentinel.governance.service.schema import keys, notices, plans, users

MOST_LIMIT: Final = 2**53 - 1
"""The largest that every reader of JSON takes for what it is."""
NOTICES_LOCK: Final = 0x4E4F5445
"""Of PostgreSQL's advisory locks: until its transaction ends nobody else leaves notices."""
MOST_MS: Final = 253_402_300_800_000
"""The year 10000, of which no calendar of ours knows."""
MOST_EMAIL_KEY_CHARS: Final = 640
"""As the column has it; some letters are three of the other case."""
MOST_GLOBS, MOST_GLOB_CHARS = 500, 256
_AT_ONCE = 500
"""Users in one statement: far below what both databases take."""
NAME = re.compile(r"[^\s,\x00-\x1f\x7f-\x9f](?:[^,\x00-\x1f\x7f-\x9f]{0,98}[^\s,\x00-\x1f\x7f-\x9f])?")
IDENTITY = re.compile(r"[\x21-\x7e]{1,255}")
EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f-\x9f]{1,64}@[^@\s\x00-\x1f\x7f-\x9f]{1,254}")


class DirectoryError(Exception):
    """An operation that cannot be done, said in one sentence. field: what is wrong, where one is."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class NotFound(DirectoryError):
    """There is no such plan, user or key."""


class Duplicate(DirectoryError):
    """There is one already."""


class InUse(DirectoryError):
    """It cannot go while others need it."""


class Invalid(DirectoryError):
    """A value that cannot be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What its users may spend in a period, None = any amount; models: globs, None = all, empty = none."""

    name: str
    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    period: PeriodKind = "monthly"
    models: tuple[str, ...] | None = None
    users: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """A user. id: ours; external_id: the organisation's, None if it has none; seen_ms: when a token of theirs was."""

    id: str
    email: str
    plan: str
    external_id: str | None = None
    name: str | None = None
    team: str | None = None
    disabled: bool = False
    created_ms: int = 0
    seen_ms: int | None = None

    @property
    def identity(self) -> str:
        """What proxies know the user by."""
        return self.external_id or self.id


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key. Moments are milliseconds since the epoch, None = never."""

    id: str
    email: str
    prefix: str
    name: str | None
    created_ms: int
    expires_ms: int | None
    used_ms: int | None
    revoked_ms: int | None


class Unchanged:
    """A value that an operation leaves as it is."""


UNCHANGED: Final = Unchanged()


# ------------------------------------------------------------------------------------------------------------- plans


def set_plan(connection: Connection, name: str, changes: Mapping[str, Any], now_ms: int) -> Plan:
    """Make a plan, or change the one of this name; what `changes` does not name stays (new: not limited, monthly).

    changes: fields of Plan. Raises Invalid.
    """
    values = {field: _checked(field, value) for field, value in changes.items()}
    _matches("name", name, NAME, "1 to 100 characters, no comma, no control character")
    row = connection.execute(select(plans).where(plans.c.name == name)).first()
    if row is None:
        defaults = {"period": "monthly", "created_ms": now_ms}
        connection.execute(insert(plans), {**defaults, **values, "name": name})
    else:
        if values:
            connection.execute(update(plans).where(plans.c.id == row.id).values(**values))
        _notify(connection, users.c.plan_id == row.id, now_ms)
    return plan(connection, name)


def _checked(field: str, value: Any) -> Any:
    if field in ("requests", "input_tokens", "output_tokens"):
        if value is not None and (type(value) is not int or not 0 <= value <= MOST_LIMIT):
            raise Invalid(f"{field} must be an integer from 0 to {MOST_LIMIT}, or unlimited", field)
        return value
    if field == "period":
        if value not in KINDS:
            raise Invalid(f"period must be one of {', '.join(KINDS)}", field)
        return value
    assert field == "models"
    return None if value is None else _globs(value)


def _globs(value: Sequence[Any]) -> str:
    fine = re.compile(rf"[\x21-\x7e]{{1,{MOST_GLOB_CHARS}}}")
    if len(value) > MOST_GLOBS or not all(isinstance(glob, str) and fine.fullmatch(glob) for glob in value):
        raise Invalid(
            f"models must be at most {MOST_GLOBS} names such as gpt-4o or gpt-4o*, of visible ASCII letters",
            "models",
        )
    return "\n".join(value)


_USERS_OF = select(func.count()).where(users.c.plan_id == plans.c.id).scalar_subquery()


def list_plans(connection: Connection) -> list[Plan]:
    """All plans, by name."""
    return [_plan(row) for row in connection.execute(select(plans, _USERS_OF.label("users")).order_by(plans.c.name))]


def plan(connection: Connection, name: str) -> Plan:
    """The plan of this name. Raises NotFound."""
    row = connection.execute(select(plans, _USERS_OF.label("users")).where(plans.c.name == name)).first()
    if row is None:
        raise NotFound(f"there is no plan {name!r}; plan list shows all", "plan")
    return _plan(row)


def plan_ids(connection: Connection) -> dict[str, int]:
    """The ids of all plans, by their names."""
    return {row.name: row.id for row in connection.execute(select(plans.c.name, plans.c.id))}


def delete_plan(connection: Connection, name: str) -> None:
    """Delete a plan that nobody has. Raises NotFound, InUse."""
    if found := plan(connection, name).users:
        raise InUse(f"{found} users have the plan {name!r}; give them another first", "plan")
    connection.execute(delete(plans).where(plans.c.name == name))


def _plan(row: Any) -> Plan:
    models = None if row.models is None else tuple(row.models.splitlines())
    return Plan(row.name, row.requests, row.input_tokens, row.output_tokens, row.period, models, row.users)


# ------------------------------------------------------------------------------------------------------------- users


def add_user(
    connection: Connection,
    email: str,
    plan_name: str,
    now_ms: int,
    *,
    external_id: str | None = None,
    name: str | None = None,
    team: str | None = None,
) -> User:
    """Add a user. Raises Invalid, NotFound (no such plan), Duplicate (e-mail address, external id)."""
    plan_id = _plan_id(connection, plan_name)
    row = user_row(email, plan_id, now_ms, external_id=external_id, name=name, team=team)
    try:
        with connection.begin_nested():
            add_users(connection, [row])
    except IntegrityError as error:
        if external_id is not None and _row(connection, users.c.external_id == external_id) is not None:
            raise Duplicate(f"another user has the external id {external_id!r}", "external_id") from error
        raise Duplicate(f"there is a user {email!r} already", "email") from error
    return user(connection, email)


def user_row(
    email: str,
    plan_id: int,
    now_ms: int,
    *,
    external_id: str | None = None,
    name: str | None = None,
    team: str | None = None,
    disabled: bool = False,
) -> dict[str, Any]:
    """What `add_users` takes. plan_id: as `plan_ids` has it. Raises Invalid."""
    _matches("email", email, EMAIL, "an e-mail address")
    if len(email_key(email)) > MOST_EMAIL_KEY_CHARS:
        raise Invalid("email is too long once its letters are of one case", "email")
    if external_id is not None:
        _matches("external_id", external_id, IDENTITY, "1 to 255 visible ASCII characters")
    for field, value in (("name", name), ("team", team)):
        if value is not None:
            _matches(field, value, NAME, "1 to 100 characters, no comma, no control character")
    return {
        "id": f"usr_{secrets.token_hex(8)}",
        "email": email,
        "email_key": email_key(email),
        "external_id": external_id,
        "name": name,
        "team": team,
        "plan_id": plan_id,
        "disabled": disabled,
        "created_ms": now_ms,
    }


def add_users(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Add many users, of whom none is there yet."""
    for start in range(0, len(rows), _AT_ONCE):
        connection.execute(insert(users), rows[start : start + _AT_ONCE])


def list_users(
    connection: Connection, *, after: str = "", limit: int | None = None, plan_name: str | None = None
) -> list[User]:
    """Users by e-mail address, from behind `after` on, no more than `limit`; of one plan, or of all."""
    query = _USER.where(users.c.email_key > email_key(after)).order_by(users.c.email_key).limit(limit)
    if plan_name is not None:
        query = query.where(plans.c.name == plan_name)
    return [_user(row) for row in connection.execute(query)]


def user(connection: Connection, email: str) -> User:
    """The user with this e-mail address, in any case of letters. Raises NotFound."""
    row = _row(connection, users.c.email_key == email_key(email))
    if row is None:
        raise NotFound(f"there is no user {email!r}; user list shows all", "email")
    return _user(row)


def change_user(
    connection: Connection,
    email: str,
    now_ms: int,
    *,
    plan_name: str | Unchanged = UNCHANGED,
    disabled: bool | Unchanged = UNCHANGED,
    team: str | Unchanged | None = UNCHANGED,
    name: str | Unchanged | None = UNCHANGED,
) -> User:
    """Change a user. Raises NotFound (no such user or plan), Invalid."""
    found = user(connection, email)
    own = users.c.id == found.id
    values: dict[str, Any] = {}
    if not isinstance(plan_name, Unchanged):
        values["plan_id"] = _plan_id(connection, plan_name)
    if not isinstance(disabled, Unchanged):
        values["disabled"] = disabled
    for field, value in (("team", team), ("name", name)):
        if not isinstance(value, Unchanged):
            if value is not None:
                _matches(field, value, NAME, "1 to 100 characters, no comma, no control character")
            values[field] = value
    if values:
        connection.execute(update(users).where(own).values(**values))
        _notify(connection, own, now_ms)
    return user(connection, email)


_USER = select(users, plans.c.name.label("plan")).join_from(users, plans)


def find_user(connection: Connection, condition: ColumnElement[bool]) -> User | None:
    """The user for whom this holds of `schema.users`, None if there is none."""
    row = _row(connection, condition)
    return None if row is None else _user(row)


def find_users(connection: Connection, column: ColumnElement[Any], values: Sequence[str]) -> Iterator[User]:
    """The users who have one of these values in a column of `schema.users`."""
    for start in range(0, len(values), _AT_ONCE):
        rows = connection.execute(_USER.where(column.in_(values[start : start + _AT_ONCE])))
        yield from map(_user, rows)


def _row(connection: Connection, condition: ColumnElement[bool]) -> Any:
    return connection.execute(_USER.where(condition)).first()


def _user(row: Any) -> User:
    return User(**{field.name: getattr(row, field.name) for field in fields(User)})


def _plan_id(connection: Connection, name: str) -> int:
    found = connection.execute(select(plans.c.id).where(plans.c.name == name)).scalar()
    if found is None:
        raise NotFound(f"there is no plan {name!r}; plan list shows all", "plan")
    return int(found)


def email_key(email: str) -> str:
    """What all spellings of an e-mail address have in common: letters of either case are the same."""
    return unicodedata.normalize("NFC", email.strip()).casefold()


# -------------------------------------------------------------------------------------------------------------- keys


def add_key(
    connection: Connection,
    email: str,
    new: api_keys.NewKey,
    now_ms: int,
    *,
    name: str | None = None,
    expires_ms: int | None = None,
) -> Key:
    """Give a user a key. Raises NotFound, Invalid, Duplicate (a key that somebody has)."""
    if name is not None:
        _matches("name", name, NAME, "1 to 100 characters, no comma, no control character")
    if expires_ms is not None and not now_ms < expires_ms < MOST_MS:
        raise Invalid("a key must end in the future, and before the year 10000", "expires")
    owner = user(connection, email)
    row = {
        "id": new.id,
        "user_id": owner.id,
        "name": name,
        "digest": new.digest,
        "prefix": new.prefix,
        "created_ms": now_ms,
        "expires_ms": expires_ms,
    }
    try:
        with connection.begin_nested():
            connection.execute(insert(keys), row)
    except IntegrityError as error:
        raise Duplicate("there is this key already", "key") from error
    return _keys(connection, keys.c.id == new.id)[0]


def list_keys(connection: Connection, email: str) -> list[Key]:
    """The keys of a user, the oldest first, with those that were revoked. Raises NotFound."""
    return _keys(connection, keys.c.user_id == user(connection, email).id)


def revoke_key(connection: Connection, key_id: str, now_ms: int) -> Key:
    """Revoke a key for good; what was revoked stays so. Raises NotFound."""
    changed = connection.execute(
        update(keys).where(keys.c.id == key_id, keys.c.revoked_ms.is_(None)).values(revoked_ms=now_ms)
    ).rowcount
    found = _keys(connection, keys.c.id == key_id)
    if not found:
        raise NotFound(f"there is no key {key_id!r}; key list EMAIL shows a user's", "id")
    if changed:
        _notify(connection, users.c.id == select(keys.c.user_id).where(keys.c.id == key_id).scalar_subquery(), now_ms)
    return found[0]


def _keys(connection: Connection, condition: ColumnElement[bool]) -> list[Key]:
    columns = [keys.c[field.name] for field in fields(Key) if field.name != "email"]
    query = select(users.c.email, *columns).join_from(keys, users).where(condition)
    rows = connection.execute(query.order_by(keys.c.created_ms, keys.c.id))
    return [Key(**row._mapping) for row in rows]  # noqa: SLF001 (SQLAlchemy's public name)


# ------------------------------------------------------------------------------------------------------------ shared


def _matches(field: str, value: Any, pattern: re.Pattern[str], what: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value) or any("\ud800" <= c <= "\udfff" for c in value):
        raise Invalid(f"{field} must be {what}", field)


def _notify(connection: Connection, condition: ColumnElement[bool], now_ms: int) -> None:
    """Leave a notice for each of these users."""
    if connection.dialect.name != "sqlite":
        # Notices are told by their numbers, so a lower one must not appear after a higher one.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": NOTICES_LOCK})
    identity = func.coalesce(users.c.external_id, users.c.id)
    chosen = select(identity, literal(now_ms, notices.c.at_ms.type)).where(condition)
    connection.execute(insert(notices).from_select(["identity", "at_ms"], chosen))

"""From a token to its user: a key of ours, or a JWT of the issuer that the organisation signs in with."""

from __future__ import annotations

import contextlib
import hmac
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from sentinel.governance.service import directory
from sentinel.governance.service.api_keys import BEGINNING, digest_of
from sentinel.governance.service.database import Database, DatabaseUnavailable
from sentinel.governance.service.directory import Duplicate, NotFound, User
from sentinel.governance.service.oidc.identity import Identity, TokenRefused
from sentinel.governance.service.schema import keys, plans, users

_SEEN_EVERY_MS = 60_000
"""So often it is noted that a key, or a user, was seen: no look-up waits for the disk more often."""
_NOTE_SECONDS = 0.2
"""So long a look-up waits for other writers to note it; else the next one does."""


class UserDisabled(Exception):
    """The user is known, and may not use AI."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token belongs to. expires_ms: when the token ends, None = never; models: globs, None = all."""

    user: User
    expires_ms: int | None
    models: tuple[str, ...] | None


def is_key(token: str) -> bool:
    """Whether a token is a key of ours, known or not."""
    return token.startswith(BEGINNING)


def of_key(database: Database, token: str, now_ms: int) -> Caller:
    """The caller who has this key. Raises TokenRefused, UserDisabled, DatabaseUnavailable."""
    digest = digest_of(token)
    with database.reading() as connection:
        key = connection.execute(select(keys).where(keys.c.digest == digest)).first()
        # Found by its hash already; compared in constant time for whoever wonders.
        if key is None or not hmac.compare_digest(bytes(key.digest), digest):
            raise TokenRefused("unknown key")
        if key.revoked_ms is not None:
            raise TokenRefused(f"key {key.id} is revoked")
        if key.expires_ms is not None and key.expires_ms <= now_ms:
            raise TokenRefused(f"key {key.id} has expired")
        caller = _caller(connection, users.c.id == key.user_id, key.expires_ms)
    if now_ms - (key.used_ms or 0) >= _SEEN_EVERY_MS:
        _note_seen(database, caller.user, now_ms, key.id)
    return caller


def of_signed_in(database: Database, who: Identity, default_plan: str | None, now_ms: int) -> Caller:
    """The caller whom an issuer vouches for: by the issuer's id, else by a verified e-mail address, else a new one.

    default_plan: of users who are not known yet, unless the token names one; without it they are refused.
    Raises TokenRefused, UserDisabled, DatabaseUnavailable.
    """
    with database.reading() as connection:
        found = _known(connection, who)
    if found is None:
        found = _added(database, who, default_plan, now_ms)
    elif now_ms - (found.seen_ms or 0) >= _SEEN_EVERY_MS:
        _note_seen(database, found, now_ms)
    with database.reading() as connection:
        return _caller(connection, users.c.id == found.id, int(who.expires_at_seconds * 1000))


def _known(connection: Connection, who: Identity) -> User | None:
    known = directory.find_user(connection, users.c.external_id == who.external_id)
    if known is not None:
        return known
    known = directory.find_user(connection, users.c.email_key == directory.email_key(who.email))
    if known is not None and not who.email_verified:
        # Whoever may choose an address at the issuer could be anybody.
        raise TokenRefused("the e-mail address is a user's, and not verified")
    return known


def _added(database: Database, who: Identity, default_plan: str | None, now_ms: int) -> User:
    with database.writing() as connection:
        for plan in filter(None, (who.plan, default_plan)):
            try:
                return directory.add_user(
                    connection, who.email, plan, now_ms, external_id=who.external_id, name=_name(who.name)
                )
            except NotFound:
                continue
            except Duplicate:
                # Another request of the same user was faster.
                if (known := _known(connection, who)) is None:
                    raise
                return known
            except directory.Invalid as error:
                raise TokenRefused(error.message) from error
    raise TokenRefused("the user is not known, and there is no plan for new ones")


def _name(name: str | None) -> str | None:
    """A name as the directory takes it, None for one that it would not."""
    cleaned = " ".join((name or "").replace(",", " ").split())[:100].strip()
    return cleaned if cleaned.isprintable() and cleaned else None


def _caller(connection: Connection, condition: Any, expires_ms: int | None) -> Caller:
    user = directory.find_user(connection, condition)
    if user is None:
        raise TokenRefused("the user is gone")
    if user.disabled:
        raise UserDisabled
    models = connection.execute(select(plans.c.models).where(plans.c.name == user.plan)).scalar()
    return Caller(user, expires_ms, None if models is None else tuple(models.splitlines()))


def _note_seen(database: Database, user: User, now_ms: int, key_id: str | None = None) -> None:
    # Nobody is kept out because it cannot be noted: a full disk, another writer.
    with contextlib.suppress(DatabaseUnavailable), database.writing(_NOTE_SECONDS) as connection:
        connection.execute(update(users).where(users.c.id == user.id).values(seen_ms=now_ms))
        if key_id is not None:
            connection.execute(update(keys).where(keys.c.id == key_id).values(used_ms=now_ms))

"""A whole installation whose governance is the built-in one: a process of its own, which may be killed as well."""

from __future__ import annotations

import signal
import time
from typing import Any, Self

import msgspec
from sqlalchemy import func, insert, select

from sentinel.dev.accounts import SimUser
from sentinel.dev.tiers import TIERS_CONFIG
from sentinel.governance.service import api_keys, directory
from sentinel.governance.service.app import open_database
from sentinel.governance.service.schema import keys, ledger, users
from tests.support.governance import API_KEY, GovernanceProcess, settings_of, sqlite_url
from tests.support.stack import Stack

PREPARED = 10_000
"""Users who are there from the start: to add one waits for the disk, and for whoever books."""


class GovernedStack(Stack):
    """A stack without the simulator of Zion. database_url: of a new database; None: SQLite."""

    def __init__(self, database_url: str | None = None, *, appendfsync: str = "everysec", **settings: str) -> None:
        super().__init__(appendfsync=appendfsync, **settings)
        url = database_url or sqlite_url(self.folder)
        self.database = open_database(settings_of(url))
        self._exits.callback(self.database.close)
        tiers = self.folder / "tiers.json"
        tiers.write_bytes(msgspec.json.encode(TIERS_CONFIG))
        self.governance = GovernanceProcess(url, self.folder / "governance", GOVERNANCE_TIERS_FILE=str(tiers))
        self.settings |= {"ZION_API_URL": self.governance.url, "ZION_API_KEY": API_KEY}
        self._tokens: dict[str, str] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        self._prepare()
        self._exits.enter_context(self.governance)
        return self

    def _prepare(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        with self.database.writing() as connection:
            directory.set_plan(connection, "free", {}, now_ms)
            first = directory.add_user(connection, "one0@corp.test", "free", now_ms, external_id="one0")
            (row,) = connection.execute(select(users)).mappings()
            more = []
            for number in range(1, PREPARED):
                name = f"one{number}"
                more.append({**row, "id": name, "email": f"{name}@corp.test", "external_id": name})
            connection.execute(insert(users), [{**each, "email_key": each["email"]} for each in more])
            owners = {first.email: first.id} | {each["email"]: each["id"] for each in more}
            connection.execute(insert(keys), [self._new_key(*owner, now_ms) for owner in owners.items()])

    def _new_key(self, email: str, user_id: str, now_ms: int) -> dict[str, Any]:
        new = api_keys.new_key()
        self._tokens[email] = new.key
        return {
            "id": new.id,
            "user_id": user_id,
            "digest": new.digest,
            "prefix": new.prefix,
            "created_ms": now_ms,
        }

    def user(self, email: str = "ana@corp.test", **fields: Any) -> tuple[SimUser, str]:
        """A user, and their key; each address is asked for once. fields: `limits` by metric, of a month."""
        if email not in self._tokens:
            limits = {name.removeprefix("ai_"): limit for name, limit in fields.get("limits", {}).items()}
            now_ms = time.time_ns() // 1_000_000
            with self.database.writing() as connection:
                directory.set_plan(connection, email, limits, now_ms)
                external_id = email.partition("@")[0]
                added = directory.add_user(connection, email, email, now_ms, external_id=external_id)
                connection.execute(insert(keys), self._new_key(email, added.id, now_ms))
        return SimUser(id=email, email=email), self._tokens[email]

    def told(self) -> dict[str, list[int]]:
        """What the ledger has of each user."""
        sums = (func.sum(ledger.c[name]) for name in ("requests", "input_tokens", "output_tokens"))
        query = select(users.c.email, *sums).join_from(ledger, users).group_by(users.c.email)
        with self.database.reading() as connection:
            return {email: [int(amount) for amount in amounts] for email, *amounts in connection.execute(query)}

    def used(self, email: str = "ana@corp.test") -> dict[str, int]:
        """What the ledger has of this user."""
        metrics = ("ai_requests", "ai_input_tokens", "ai_output_tokens")
        return dict(zip(metrics, self.told().get(email, [0, 0, 0]), strict=True))

    def pause_governance(self) -> None:
        """It neither answers nor ends, until it is resumed."""
        self.governance.signal(signal.SIGSTOP)

    def resume_governance(self) -> None:
        """It goes on where it was."""
        self.governance.signal(signal.SIGCONT)

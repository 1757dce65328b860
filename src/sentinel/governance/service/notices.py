"""Tells proxies whose tokens, limits or models have changed, so that they ask anew within a second.

Whoever changes something leaves a notice in the same transaction (directory.py). The service tells each proxy of
GOVERNANCE_PROXIES the notices that it has not been told; so does a command once it is done, should no service run. How
far a proxy has been told is in the database, so a restart forgets nothing, and to be told twice harms nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import structlog
from pydantic import SecretStr
from pyreqwest.client import SyncClientBuilder
from pyreqwest.exceptions import PyreqwestError
from sqlalchemy import delete, func, select, update

from sentinel.governance.service.database import Database, DatabaseUnavailable
from sentinel.governance.service.increments import Clock
from sentinel.governance.service.schema import notices, proxies

log = structlog.get_logger()

LOOK_SECONDS = 0.2
"""So often it is looked for notices."""
MOST_AT_ONCE = 1_000
"""Users in one call, as proxies take them (POST /admin/users/refresh)."""
KEPT_MS = 86_400_000
"""A proxy that was away for longer has forgotten everything by itself: no cache of it is kept so long."""
_CALL_SECONDS, _CONNECT_SECONDS = 5.0, 1.0
_FIRST_WAIT_SECONDS, _MOST_WAIT_SECONDS = 0.5, 15.0
"""After a call that failed; doubled with each failure."""
_PRUNE_SECONDS = 600.0


class Teller:
    """Tells these proxies. key: ADMIN_KEY, which they have, too."""

    def __init__(self, database: Database, urls: Sequence[str], key: SecretStr, now: Clock) -> None:
        self._database = database
        self._urls = urls
        self._key = key
        self._now = now
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._client = (
            SyncClientBuilder()
            .connect_timeout(timedelta(seconds=_CONNECT_SECONDS))
            .timeout(timedelta(seconds=_CALL_SECONDS))
            .follow_redirects(False)
            .no_proxy()
            .user_agent("sentinel-governance")
            .build()
        )

    def register(self) -> None:
        """Note proxies that are new: what was before them is nothing to them. Raises DatabaseUnavailable."""
        with self._database.writing() as connection:
            last = connection.execute(select(func.coalesce(func.max(notices.c.id), 0))).scalar_one()
            statement = self._database.upsert(proxies).on_conflict_do_nothing(index_elements=[proxies.c.url])
            for url in self._urls:
                connection.execute(statement, {"url": url, "told": last})

    def tell(self, url: str) -> bool:
        """Tell a proxy what it has not been told, as far as one call goes; whether there was anything.

        Raises DatabaseUnavailable, ProxyUnavailable.
        """
        with self._database.reading() as connection:
            told = connection.execute(select(proxies.c.told).where(proxies.c.url == url)).scalar_one()
            rows = connection.execute(
                select(notices.c.id, notices.c.identity)
                .where(notices.c.id > told)
                .order_by(notices.c.id)
                .limit(MOST_AT_ONCE)
            ).all()
        if not rows:
            return False
        self._call(url, sorted({row.identity for row in rows}))
        with self._database.writing() as connection:
            last = rows[-1].id
            connection.execute(update(proxies).where(proxies.c.url == url, proxies.c.told < last).values(told=last))
        return True

    def tell_all(self) -> list[str]:
        """Tell every proxy everything; those that could not be told. Raises DatabaseUnavailable."""
        failed = []
        for url in self._urls:
            try:
                while self.tell(url):
                    pass
            except ProxyUnavailable:
                failed.append(url)
        return failed

    def _call(self, url: str, identities: list[str]) -> None:
        request = self._client.post(f"{url}/admin/users/refresh")
        request = request.bearer_auth(self._key.get_secret_value()).header("content-type", "application/json")
        try:
            response = request.body_bytes(msgspec.json.encode({"users": identities})).build().send()
        except PyreqwestError as error:
            raise ProxyUnavailable(type(error).__name__) from error
        if not 200 <= response.status < 300:
            raise ProxyUnavailable(f"status {response.status}")

    def start(self) -> None:
        """Go on telling in the background, each proxy in a thread of its own, until `close`."""
        self.register()
        for url in self._urls:
            thread = threading.Thread(target=self._run, args=(url,), name=f"tell {url}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, url: str) -> None:
        wait, failures = LOOK_SECONDS, 0
        while not self._ended.wait(wait):
            try:
                wait = 0.0 if self.tell(url) else LOOK_SECONDS
                failures = 0
            except (DatabaseUnavailable, ProxyUnavailable) as error:
                wait = min(_MOST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**failures)
                failures += failures < 10
                log.warning("a proxy cannot be told", proxy=url, reason=str(error), seconds=wait)

    def close(self) -> None:
        """Stop telling; what is left is told after the next start."""
        self._ended.set()
        for thread in self._threads:
            thread.join(_CALL_SECONDS + _CONNECT_SECONDS)
        self._client.close()


class ProxyUnavailable(Exception):
    """A proxy could not be told."""


def forget_notices(database: Database, now_ms: int) -> None:
    """Forget notices that help nobody any more. Raises DatabaseUnavailable."""
    with database.writing() as connection:
        connection.execute(delete(notices).where(notices.c.at_ms < now_ms - KEPT_MS))

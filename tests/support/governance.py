"""The built-in governance on a real socket and a real database: a thread that has the test's clock; a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import uvicorn

from sentinel.config import load
from sentinel.dev.ports import free_port
from sentinel.governance.service import api_keys, app, directory
from sentinel.governance.service.service import Service
from sentinel.governance_settings import GovernanceSettings
from tests.support.client import Answer, ask, request
from tests.support.waiting import PATIENCE_SECONDS, wait_until

API_KEY = "governance-test-key"
ADMIN_KEY = "governance-test-admin-key"
DAY_MS = 86_400_000


@dataclass
class Governance:
    """A running service. ahead_ms: so far its clock is ahead of the machine's."""

    url: str
    service: Service
    ahead_ms: int = 0

    def now(self) -> int:
        """The service's moment, milliseconds since the epoch."""
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def turn_to_noon(self) -> None:
        """Turn its clock, so that no midnight comes by itself while a test runs."""
        self.ahead_ms = DAY_MS // 2 - time.time_ns() // 1_000_000 % DAY_MS

    def turn_to(self, moment: datetime) -> None:
        """Turn its clock to this moment, from which it goes on."""
        self.ahead_ms = round(moment.timestamp() * 1_000) - time.time_ns() // 1_000_000

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Call the contract's API with the service's key."""
        return ask(method, f"{self.url}/api/v1{path}", body, {"x-api-key": API_KEY, **(headers or {})})

    def admin(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        key: str = ADMIN_KEY,
        content_type: str = "application/json",
    ) -> Answer:
        """Call the admin API; it is there where the service has ADMIN_KEY as its `governance_admin_key`."""
        if raw is None and body is not None:
            raw = json.dumps(body).encode()
        headers = {"authorization": f"Bearer {key}", "content-type": content_type}
        return request(int(self.url.rpartition(":")[2]), method, f"/admin{target}", raw, headers)

    def me(self, token: str) -> Answer:
        """Ask whose token this is."""
        return ask("GET", f"{self.url}/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})

    def set_plan(self, name: str, **changes: Any) -> None:
        """Make a plan, or change it."""
        with self.service.database.writing() as connection:
            directory.set_plan(connection, name, changes, self.now())

    def add_user(self, email: str, plan: str, **more: Any) -> directory.User:
        """Add a user."""
        with self.service.database.writing() as connection:
            return directory.add_user(connection, email, plan, self.now(), **more)

    def change_user(self, email: str, **changes: Any) -> None:
        """Change a user."""
        with self.service.database.writing() as connection:
            directory.change_user(connection, email, self.now(), **changes)

    def add_key(self, email: str, **more: Any) -> api_keys.NewKey:
        """Give a user a key."""
        new = api_keys.new_key()
        with self.service.database.writing() as connection:
            directory.add_key(connection, email, new, self.now(), **more)
        return new

    def book(self, *items: dict[str, Any], key: str | None = None) -> Answer:
        """Report usage."""
        headers = {} if key is None else {"idempotency-key": key}
        return self.call("POST", "/usage/external/batch-increment", {"increments": items}, headers)

    def used(self, email: str) -> tuple[int, int, int]:
        """What a user has spent in the current period, as the service tells proxies."""
        with self.service.database.reading() as connection:
            identity = directory.user(connection, email).identity
        (limit,) = self.call("GET", f"/limits/external/{identity}").json["data"]["limits"]
        used = [int(limit[name]["used"]) for name in ("aiRequests", "aiInputTokens", "aiOutputTokens")]
        return used[0], used[1], used[2]


_SERVE = """
import sys
from sentinel.config import load
from sentinel.governance.service.app import serve
from sentinel.governance_settings import GovernanceSettings
sys.exit(serve(load(GovernanceSettings)))
"""


class GovernanceProcess:
    """The service as a process of its own. Several may share one database. Its stdout and stderr are kept in a file."""

    def __init__(self, database_url: str, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._settings = {
            "GOVERNANCE_DATABASE_URL": database_url,
            "GOVERNANCE_API_KEY": API_KEY,
            "GOVERNANCE_PORT": str(self.port),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Return when it answers."""
        self._folder.mkdir(exist_ok=True)
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                env={**passed, **self._settings},
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, "the start of the governance")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            return ask("GET", f"{self.url}/health").status == 200
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What it has said, over all starts."""
        return (self._folder / "log").read_text()

    def book(self, *items: dict[str, Any], key: str) -> Answer:
        """Report usage. Raises OSError or HTTPException where it does not answer."""
        headers = {"x-api-key": API_KEY, "idempotency-key": key}
        return ask("POST", f"{self.url}/api/v1/usage/external/batch-increment", {"increments": items}, headers)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def sqlite_url(folder: Path) -> str:
    """A database in a file of this folder."""
    return f"sqlite:///{folder}/governance.db"


def settings_of(url: str, **more: Any) -> GovernanceSettings:
    """Settings of a service with this database."""
    return load(GovernanceSettings, governance_database_url=url, governance_api_key=API_KEY, **more)


@contextlib.contextmanager
def governance(url: str, **more: Any) -> Iterator[Governance]:
    """Run a service with this database; more: settings."""
    service = app.build(settings_of(url, **more))
    config = uvicorn.Config(app.application(service), log_config=None, server_header=False)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        running = Governance(f"http://127.0.0.1:{listener.getsockname()[1]}", service)
        service.now = running.now
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="governance")
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the governance listens")
            assert server.started
            yield running
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

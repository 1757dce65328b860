"""What a full report of usage takes the built-in governance, on each database, through HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.plan import Plan
from sentinel.config import load
from sentinel.dev.ports import free_port
from sentinel.governance.service import directory
from sentinel.governance.service.app import open_database
from sentinel.governance_settings import GovernanceSettings
from tests.support.postgres import Postgres, binaries

ITEMS = 1_000
_KEY = "bench-key"
_START_SECONDS = 30.0


def governance(plan: Plan) -> dict[str, Any]:
    """Milliseconds of a report with 1,000 items of as many users, by database; PostgreSQL where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        measured = {"SQLite": _reports(f"sqlite:///{folder}/governance.db", plan.reports)}
    try:
        binaries()
    except RuntimeError:
        return measured
    with Postgres() as server, server.database() as url:
        measured["PostgreSQL"] = _reports(url, plan.reports)
    return measured


def _reports(url: str, count: int) -> float:
    now_ms = time.time_ns() // 1_000_000
    database = open_database(load(GovernanceSettings, governance_database_url=url))
    emails = [f"user{number}@bench.test" for number in range(ITEMS)]
    with database.writing() as connection:
        directory.set_plan(connection, "bench", {"requests": 10**9}, now_ms)
        for email in emails:
            directory.add_user(connection, email, "bench", now_ms)
    database.close()
    amounts = {"aiRequests": 1, "aiInputTokens": 31, "aiOutputTokens": 7, "model": "gpt-4o"}
    body = json.dumps({"increments": [{"email": email, **amounts} for email in emails]})
    with _service(url) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_SECONDS)
        took = []
        for number in range(count):
            headers = {"x-api-key": _KEY, "idempotency-key": f"report-{number}"}
            began = time.perf_counter()
            client.request("POST", "/api/v1/usage/external/batch-increment", body, headers)
            response = client.getresponse()
            answer = response.read()
            took.append((time.perf_counter() - began) * 1_000)
            assert response.status == 200, answer
        client.close()
    return median(took)


@contextlib.contextmanager
def _service(url: str) -> Iterator[int]:
    port = free_port()
    settings = {"GOVERNANCE_DATABASE_URL": url, "GOVERNANCE_API_KEY": _KEY, "GOVERNANCE_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinel", "governance", "serve"],
        env={**os.environ, **settings},
        cwd=Path(tempfile.gettempdir()),
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(port):
            assert process.poll() is None, "the governance has ended"
            assert time.monotonic() < deadline, "the governance does not start"
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait(_START_SECONDS)


def _listens(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

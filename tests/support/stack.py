"""A whole installation for tests: a real Valkey, the simulators, and Sentinel as processes of the installed command."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import openai

from sentinel.dev.accounts import SimUser
from sentinel.dev.ports import free_port
from sentinel.dev.simulators import Simulators, start_simulators
from sentinel.dev.store import EmbeddedStore
from tests.support.client import Answer, request
from tests.support.waiting import PATIENCE_SECONDS, wait_until

START_SECONDS = 4 * PATIENCE_SECONDS
"""A start is a second's work, and under the load that was seen on our machines takes half a minute."""


class SentinelProcess:
    """One `sentinel serve`. `environment` is all the settings it gets; its stdout and stderr are kept in files."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.port = int(environment.setdefault("SENTINEL_PORT", str(free_port())))
        self.environment = environment
        self.folder = folder
        self.command = [sys.executable, "-m", "sentinel", "serve"]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, ready: bool = True) -> Self:
        """Start it; by default wait until it is ready for requests."""
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with (self.folder / "stdout").open("ab") as out, (self.folder / "stderr").open("ab") as err:
            self.process = subprocess.Popen(
                self.command,
                env={**passed, **self.environment},
                cwd=self.folder,
                stdout=out,
                stderr=err,
            )
        wait_until(lambda: self._answers(ready=ready), "the start of Sentinel", seconds=START_SECONDS)
        return self

    def _answers(self, *, ready: bool) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "stderr").read_text()
        path = "/health/ready" if ready else "/health/live"
        try:
            return self.get(path)[0] == 200
        except OSError:
            return False

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """GET."""
        return self.request("GET", path, headers=headers)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request over a connection of its own."""
        return request(self.port, method, path, body, headers)

    def metric(self, name: str) -> float:
        """The sum of all series of this metric whose text starts with `name` (labels may be part of it)."""
        lines = self.get("/metrics")[2].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def log(self) -> list[dict[str, Any]]:
        """The log lines so far."""
        return [json.loads(line) for line in (self.folder / "stdout").read_text().splitlines() if line.startswith("{")]

    def ended(
        self, count: int = 1, seconds: float = PATIENCE_SECONDS, *, user: str | None = None
    ) -> list[dict[str, Any]]:
        """The lines of ended requests (of this user alone), once there are `count` of them."""

        def lines() -> list[dict[str, Any]] | None:
            found = [line for line in self.log() if line.get("event") == "request"]
            found = [line for line in found if user in (None, line["user_id"])]
            return found if len(found) >= count else None

        return list(wait_until(lines, f"{count} request lines", seconds=seconds))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM, and wait; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


def _place() -> Path | None:
    """Memory, where there is plenty: a disk that others write to, too, can hold up an append-only file for seconds."""
    memory = Path("/dev/shm")
    is_large = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 1024**3
    return memory if is_large else None


class Stack:
    """Store, simulators, and any number of Sentinels on them. Everything ends with the context."""

    def __init__(self, *, appendfsync: str = "everysec", **settings: str) -> None:
        self._exits = contextlib.ExitStack()
        # Workers die a moment after the parent that was killed, and may write meanwhile.
        folder = tempfile.TemporaryDirectory(prefix="sentinel-test-", dir=_place(), ignore_cleanup_errors=True)
        self.folder = Path(self._exits.enter_context(folder))
        self.settings = settings
        self.store = EmbeddedStore(self.folder / "store", appendfsync=appendfsync)
        self.sentinels: list[SentinelProcess] = []
        self._made = 0

    def __enter__(self) -> Self:
        self.simulators: Simulators = self._exits.enter_context(start_simulators())
        self.store.start()
        self._exits.callback(self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def _end(self) -> None:
        for sentinel in self.sentinels:
            if sentinel.process is not None and sentinel.process.poll() is None:
                sentinel.process.kill()
                sentinel.process.wait(10)
        with contextlib.suppress(Exception):
            self.store.resume()
        self.store.kill()

    def sentinel(
        self, settings: Mapping[str, str] | None = None, /, *, start: bool = True, ready: bool = True, **more: str
    ) -> SentinelProcess:
        """Another Sentinel, with settings of its own on top of the stack's."""
        self._made += 1
        folder = self.folder / f"sentinel-{self._made}"
        folder.mkdir()
        environment = {
            "ZION_API_URL": self.simulators.zion_url,
            "ZION_API_KEY": self.simulators.zion_key,
            "OPENAI_API_KEY": self.simulators.openai_key,
            "OPENAI_API_URL": self.simulators.openai_url,
            "REDIS_URL": self.store.url,
            "SENTINEL_HOST": "127.0.0.1",
            "RATE_LIMITS": "",
            "USAGE_FLUSH_SECONDS": "0.1",
            "SPOOL_DIR": str(self.folder / "spool"),
            **self.settings,
            **(settings or {}),
            **more,
        }
        process = SentinelProcess(environment, folder)
        self.sentinels.append(process)
        return process.start(ready=ready) if start else process

    def user(self, email: str = "ana@corp.test", **fields: Any) -> tuple[SimUser, str]:
        """A user at Zion, and a token of theirs. fields: as ZionSimulator.add_user takes them."""
        fields.setdefault("external_id", email.partition("@")[0])
        user = self.simulators.zion.add_user(email, **fields)
        return user, self.simulators.zion.token(user)

    def told(self) -> dict[str, list[int]]:
        """Requests, input tokens and output tokens that Zion was told of each user."""
        told: dict[str, list[int]] = {}
        for applied in self.simulators.zion.applied:
            sums = told.setdefault(applied.email, [0, 0, 0])
            for place, name in enumerate(("ai_requests", "ai_input_tokens", "ai_output_tokens")):
                sums[place] += getattr(applied, name)
        return told

    def used(self, email: str = "ana@corp.test") -> dict[str, int]:
        """What Zion has booked for this e-mail."""
        return dict(self.simulators.zion.used(email))

    def booked(self, requests: int, email: str = "ana@corp.test", seconds: float = PATIENCE_SECONDS) -> dict[str, int]:
        """What Zion has booked, once it has so many requests."""
        wait_until(lambda: self.used(email)["ai_requests"] >= requests, f"{requests} booked requests", seconds=seconds)
        return self.used(email)


def sdk(sentinel: SentinelProcess, token: str, **options: Any) -> openai.AsyncOpenAI:
    """The official SDK, pointed at Sentinel; without retries unless asked for."""
    options.setdefault("max_retries", 0)
    options.setdefault("timeout", 30)
    return openai.AsyncOpenAI(base_url=f"{sentinel.url}/v1", api_key=token, **options)


@contextlib.contextmanager
def raw_connection(sentinel: SentinelProcess) -> Iterator[socket.socket]:
    """A TCP connection to Sentinel, for what no HTTP library would send."""
    address = urlsplit(sentinel.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=PATIENCE_SECONDS) as connection:
        yield connection

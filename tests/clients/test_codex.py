"""The Codex CLI as it comes from its registry: a session with a call of a tool, over both ways, and translated.

`make clients` installs it and runs this; without it, and in `make test`, this is left out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel.dev.ports import free_port
from tests.clients.conftest import Found
from tests.clients.roster import CODEX, TRANSLATED, Row
from tests.support.stack import SentinelProcess, Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / ".clients/npm/node_modules/.bin/codex"
SECONDS = 120
CONFIG = """
model = "{model}"
model_provider = "sentinel"
approval_policy = "never"
sandbox_mode = "danger-full-access"
{more}

[model_providers.sentinel]
name = "Sentinel"
base_url = "http://127.0.0.1:{port}/v1"
env_key = "SENTINEL_TOKEN"
wire_api = "responses"
supports_websockets = {websockets}
"""


class Dev:
    """`sentinel dev` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._out = folder / "out"
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sentinel", "dev"],
                env={**passed, "SENTINEL_PORT": str(self.port)},
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.token = wait_until(self._token, "the start of `sentinel dev`", seconds=SECONDS)

    def _token(self) -> str | None:
        found = re.search(r"SENTINEL_TOKEN=(\S+)", self._out.read_text())
        return None if found is None else found[1]

    def requests(self) -> list[dict[str, Any]]:
        """The lines of all requests so far."""
        lines = (self.folder / ".sentinel/sentinel.log").read_text().splitlines()
        return [line for each in lines if (line := json.loads(each)).get("event") == "request"]


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    dev = Dev(tmp_path)
    yield dev
    dev.process.terminate()
    dev.process.wait(SECONDS)


IS_THERE = pytest.mark.skipif(not COMMAND.exists(), reason="`make clients` installs it")


@IS_THERE
@pytest.mark.parametrize("row", CODEX, ids=lambda row: row.way)
def test_a_session_with_a_tool(dev: Dev, tmp_path: Path, found: Found, row: Row) -> None:
    """It calls a tool of its own, tells what came of it, and gets the answer; each response is billed."""
    with found.trying(row, "tools"):
        session(row, dev.port, dev.token, tmp_path)

        def answered() -> list[dict[str, Any]]:
            # To make ready costs nothing, and is asked over WebSockets alone.
            lines = [line for line in dev.requests() if line["route"] == "/v1/responses" and line["output_tokens"]]
            return lines if len(lines) > 1 else []

        # The last one is written a moment after the client has its answer.
        lines = wait_until(answered, "the lines of its requests")
        assert [line["outcome"] for line in lines] == ["ok", "ok"]
        assert {line["method"] for line in lines} == {"GET" if row.way == "websockets" else "POST"}


@IS_THERE
@pytest.mark.parametrize("row", [row for row in TRANSLATED if row.package == CODEX[0].package], ids=lambda row: row.way)
def test_a_translated_session(
    stack: Stack, translating: SentinelProcess, tmp_path: Path, found: Found, row: Row
) -> None:
    """The same with a provider that speaks chat alone, which has no WebSockets: it goes on without them."""
    with found.trying(row, "tools"):
        email = f"codex-{row.way}@corp.test"
        _, token = stack.user(email)
        session(row, translating.port, token, tmp_path)
        used = stack.booked(2, email)

        def answered() -> list[dict[str, Any]]:
            lines = [line for line in translating.ended(user=f"codex-{row.way}") if line["output_tokens"]]
            return lines if len(lines) > 1 else []

        lines = wait_until(answered, "the lines of its requests")
        assert [(line["method"], line["outcome"], line["provider"]) for line in lines] == [("POST", "ok", "chat")] * 2
        assert sum(line["output_tokens"] for line in lines) == used["ai_output_tokens"]


def session(row: Row, port: int, token: str, folder: Path) -> None:
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    websockets = str(row.way == "websockets").lower()
    # It is the provider who searches, and those of chat do not.
    more = 'web_search = "disabled"' if row.provider else ""
    config = CONFIG.format(model=row.model("tools"), more=more, port=port, websockets=websockets)
    (home / "config.toml").write_text(config)
    done = subprocess.run(
        [COMMAND, "exec", "--skip-git-repo-check", "List the files [[tool]]"],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), "SENTINEL_TOKEN": token},
        cwd=work,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"I am a simulated model" in done.stdout

"""The Codex CLI as it comes from its registry, on `sentinel dev`: a session with a call of a tool, over both ways.

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
from tests.clients.roster import CODEX, Row
from tests.support.waiting import wait_until

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / ".clients/npm/node_modules/.bin/codex"
SECONDS = 120
CONFIG = """
model = "gpt-5"
model_provider = "sentinel"
approval_policy = "never"
sandbox_mode = "danger-full-access"

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


@pytest.mark.skipif(not COMMAND.exists(), reason="`make clients` installs it")
@pytest.mark.parametrize("row", CODEX, ids=lambda row: row.way)
def test_a_session_with_a_tool(dev: Dev, tmp_path: Path, found: Found, row: Row) -> None:
    """It calls a tool of its own, tells what came of it, and gets the answer; each response is billed."""
    with found.trying(row, "tools"):
        session(dev, tmp_path, websockets=row.way == "websockets")


def session(dev: Dev, tmp_path: Path, *, websockets: bool) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.format(port=dev.port, websockets=str(websockets).lower()))
    done = subprocess.run(
        [COMMAND, "exec", "--skip-git-repo-check", "List the files [[tool]]"],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), "SENTINEL_TOKEN": dev.token},
        cwd=work,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"I am a simulated model" in done.stdout
    # To make ready costs nothing, and is asked over WebSockets alone.
    lines = [line for line in dev.requests() if line["route"] == "/v1/responses" and line["output_tokens"]]
    assert [line["outcome"] for line in lines] == ["ok", "ok"]
    assert {line["method"] for line in lines} == {"GET" if websockets else "POST"}

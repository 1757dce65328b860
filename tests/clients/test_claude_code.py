"""Claude Code as it comes from its registry: a session with a call of a tool, and what it says where it may not ask.

`make clients` installs it and runs this; without it, and in `make test`, this is left out.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Found
from tests.clients.roster import CLAUDE_CODE, ROOT
from tests.support.stack import SentinelProcess, Stack
from tests.support.waiting import wait_until

PACKAGE = ROOT / ".clients/npm/node_modules/@anthropic-ai/claude-code"
pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not PACKAGE.exists(), reason="`make clients` installs it"),
]

SECONDS = 120
SAID = 13
"""So many tokens has the answer after the call."""


def claude(sentinel: SentinelProcess, token: str, home: Path, text: str) -> subprocess.CompletedProcess[str]:
    """One session without a terminal; it starts from nothing, and asks nobody else."""
    return subprocess.run(
        ["node", str(PACKAGE / "cli-wrapper.cjs"), "-p", text],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANTHROPIC_BASE_URL": sentinel.url,
            "ANTHROPIC_AUTH_TOKEN": token,
            "ANTHROPIC_MODEL": "claude-haiku-5-5",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        cwd=home,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
        check=False,
    )


def lines(sentinel: SentinelProcess, **fields: Any) -> list[dict[str, Any]]:
    """Its requests, once there are any with these fields; a line comes a moment after the answer."""
    wanted = {"event": "request", **fields}.items()
    return wait_until(lambda: [line for line in sentinel.log() if wanted <= line.items()], "the lines of its requests")


def test_a_session_with_a_tool(stack: Stack, sentinel: SentinelProcess, tmp_path: Path, found: Found) -> None:
    """It calls a tool of its own, tells what came of it, and gets the answer; each message is billed."""
    with found.trying(CLAUDE_CODE, "tools"):
        _, token = stack.user("claude@corp.test")
        done = claude(sentinel, token, tmp_path, "List the files [[tool]]")
        assert done.returncode == 0, done.stderr[-2000:]
        assert "I am a simulated model" in done.stdout
        used = stack.booked(2, "claude@corp.test")
        told = lines(sentinel, user_id="claude", output_tokens=SAID)
        assert [line["outcome"] for line in told] == ["ok"]
        told = lines(sentinel, user_id="claude")
        assert [(line["route"], line["outcome"]) for line in told] == [("/v1/messages", "ok")] * 2
        assert sum(line["output_tokens"] for line in told) == used["ai_output_tokens"]


def test_a_used_up_quota(stack: Stack, sentinel: SentinelProcess, tmp_path: Path, found: Found) -> None:
    """It asks once, and says why it goes no further."""
    with found.trying(CLAUDE_CODE, "quota"):
        _, token = stack.user("poor@corp.test", limits={"ai_requests": 1}, used={"ai_requests": 1})
        done = claude(sentinel, token, tmp_path, "Say hello")
        assert done.returncode != 0
        assert "exceeded your current quota" in done.stdout, (done.stdout, done.stderr)
        assert [line["status"] for line in lines(sentinel, user_id="poor")] == [429]


def test_an_unknown_token(sentinel: SentinelProcess, tmp_path: Path, found: Found) -> None:
    """It asks once, and says that the token is not known."""
    with found.trying(CLAUDE_CODE, "key"):
        done = claude(sentinel, "sk-nobody", tmp_path, "Say hello")
        assert done.returncode != 0
        assert "Incorrect API key provided" in done.stdout, (done.stdout, done.stderr)
        assert len(lines(sentinel, status=401)) == 1

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
from tests.clients.roster import CLAUDE_CODE, ROOT, TRANSLATED, Row
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


@pytest.fixture(
    params=[CLAUDE_CODE, *(row for row in TRANSLATED if row.client == CLAUDE_CODE.client)], ids=lambda row: row.id
)
def row(request: pytest.FixtureRequest) -> Row:
    """In front of a provider that speaks its format, and of one that does not."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def asked(request: pytest.FixtureRequest, row: Row) -> SentinelProcess:
    """The Sentinel with that provider."""
    return request.getfixturevalue("translating" if row.provider else "sentinel")  # type: ignore[no-any-return]


def claude(
    sentinel: SentinelProcess, model: str, token: str, home: Path, text: str
) -> subprocess.CompletedProcess[str]:
    """One session without a terminal; it starts from nothing, and asks nobody else."""
    return subprocess.run(
        ["node", str(PACKAGE / "cli-wrapper.cjs"), "-p", text],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANTHROPIC_BASE_URL": sentinel.url,
            "ANTHROPIC_AUTH_TOKEN": token,
            "ANTHROPIC_MODEL": model,
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


def test_a_session_with_a_tool(stack: Stack, asked: SentinelProcess, tmp_path: Path, found: Found, row: Row) -> None:
    """It calls a tool of its own, tells what came of it, and gets the answer; each message is billed."""
    with found.trying(row, "tools"):
        _, token = stack.user(f"claude{row.provider}@corp.test")
        done = claude(asked, row.model("tools"), token, tmp_path, "List the files [[tool]]")
        assert done.returncode == 0, done.stderr[-2000:]
        assert "I am a simulated model" in done.stdout
        used = stack.booked(2, f"claude{row.provider}@corp.test")
        told = lines(asked, user_id=f"claude{row.provider}", output_tokens=SAID)
        assert [line["outcome"] for line in told] == ["ok"]
        told = lines(asked, user_id=f"claude{row.provider}")
        assert [(line["route"], line["outcome"]) for line in told] == [("/v1/messages", "ok")] * 2
        assert sum(line["output_tokens"] for line in told) == used["ai_output_tokens"]


def test_a_used_up_quota(stack: Stack, asked: SentinelProcess, tmp_path: Path, found: Found, row: Row) -> None:
    """It asks once, and says why it goes no further."""
    with found.trying(row, "quota"):
        _, token = stack.user(f"poor{row.provider}@corp.test", limits={"ai_requests": 1}, used={"ai_requests": 1})
        done = claude(asked, row.model("quota"), token, tmp_path, "Say hello")
        assert done.returncode != 0
        assert "exceeded your current quota" in done.stdout, (done.stdout, done.stderr)
        assert [line["status"] for line in lines(asked, user_id=f"poor{row.provider}")] == [429]


def test_an_unknown_token(asked: SentinelProcess, tmp_path: Path, found: Found, row: Row) -> None:
    """It asks once, and says that the token is not known."""
    with found.trying(row, "key"):
        done = claude(asked, row.model("key"), "sk-nobody", tmp_path, "Say hello")
        assert done.returncode != 0
        assert "Incorrect API key provided" in done.stdout, (done.stdout, done.stderr)
        assert len(lines(asked, status=401)) == 1

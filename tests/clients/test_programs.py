"""Libraries as they come from their registries, unchanged: an address and a key are all that they are told.

`make clients` installs them and runs this; `make test` leaves it out. What each does is in programs/.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Found
from tests.clients.roster import NPM, ROOT, ROWS, TRANSLATED, Row
from tests.support.stack import SentinelProcess, Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.clients

PROGRAMS = ROOT / "tests/clients/programs"
SECONDS = 200
TRIED = [(row, case) for row in (*ROWS, *TRANSLATED) if row.program is not None for case in row.cases]
CITY = {"name": "Paris", "people": 7}
"""What the simulator says where the form is given."""
LONG_TOKENS = 600


def email(row: Row, case: str) -> str:
    """Each case has a user of its own, so that what it did can be told apart."""
    return f"{row.place}-{row.package.strip('@').replace('/', '-')}-{row.way}{row.provider}-{case}@corp.test"


def command(row: Row, folder: Path) -> list[str]:
    """The program, in the environment of its client."""
    assert row.program is not None
    there = ROOT / ".clients" / row.place
    if not (there / ".installed").exists():
        pytest.skip("`make clients` installs it")
    if row.place != NPM:
        return [str(there / "bin/python"), "-P", str(PROGRAMS / row.program)]
    # A module finds packages beside itself, and nowhere else.
    for program in PROGRAMS.glob("*.mjs"):
        shutil.copy(program, there)
    return ["node", str(there / row.program)]


class Runs:
    """Each program runs once, with all of its cases."""

    def __init__(self, stack: Stack, folder: Path, direct: SentinelProcess, translating: SentinelProcess) -> None:
        self._stack, self._folder, self._direct, self._translating = stack, folder, direct, translating
        self.outcomes = lru_cache(maxsize=None)(self._run)

    def _sentinel(self, row: Row) -> SentinelProcess:
        return self._translating if row.provider else self._direct

    def _token(self, row: Row, case: str) -> str:
        if case == "key":
            return "sk-nobody"
        spent: dict[str, Any] = {"limits": {"ai_requests": 1}, "used": {"ai_requests": 1}} if case == "quota" else {}
        return self._stack.user(email(row, case), **spent)[1]

    def _run(self, row: Row) -> dict[str, dict[str, Any]]:
        asked = {
            "url": self._sentinel(row).url,
            "way": row.way,
            "cases": {case: {"token": self._token(row, case), "model": row.model(case)} for case in row.cases},
        }
        done = subprocess.run(
            [*command(row, self._folder), json.dumps(asked)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
            },
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
        return {outcome.pop("case"): outcome for outcome in outcomes}

    def lines(self, row: Row, case: str) -> list[dict[str, Any]]:
        """Its requests so far."""
        user = email(row, case).partition("@")[0]
        log = self._sentinel(row).log()
        return [line for line in log if line.get("event") == "request" and line["user_id"] == user]


@pytest.fixture(scope="module")
def runs(
    stack: Stack,
    sentinel: SentinelProcess,
    translating: SentinelProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Runs:
    return Runs(stack, tmp_path_factory.mktemp("programs"), sentinel, translating)


@pytest.mark.parametrize(("row", "case"), TRIED, ids=lambda value: getattr(value, "id", value))
def test_it_works_unchanged(runs: Runs, stack: Stack, found: Found, row: Row, case: str) -> None:
    """It gets what it would get of its provider, or an error that says why; and all of it is billed, once."""
    outcomes = runs.outcomes(row)
    with found.trying(row, case):
        outcome = outcomes[case]
        if case in ("quota", "key"):
            reason = "exceeded your current quota" if case == "quota" else "Incorrect API key provided"
            assert reason in outcome["raised"], outcome
        else:
            assert "told" in outcome, outcome["traceback"]
            check(row, case, outcome["told"])
        if case != "key":
            check_books(runs, stack, row, case)


def check(row: Row, case: str, told: Any) -> None:
    """What the program says of its client's answer."""
    if case == "chat":
        assert "I am a simulated model" in told
    elif case == "stream":
        # Gemini sends a call in one piece.
        is_call = row.way == "tools" and row.provider == "gemini"
        assert len(told) > (0 if is_call else 3)
        assert told[-1] == CITY or "I am a simulated model" in "".join(told)
    elif case == "tools":
        (call,) = told if isinstance(told, list) else [told]
        assert (json.loads(call) if isinstance(call, str) else call) == {"city": "Paris"}
    elif case == "structured":
        assert told == CITY
    elif case == "embeddings":
        assert len(told) == 2
        assert min(told) > 100
    elif case == "upload":
        assert [json.loads(line)["prompt"] for line in told.splitlines()] == ["one", "two"]
    else:
        assert (case, told) == ("abort", 3)


def check_books(runs: Runs, stack: Stack, row: Row, case: str) -> None:
    """Its requests went where the page says; Zion has booked what the log tells, each once."""
    if case == "quota":
        lines = wait_until(lambda: runs.lines(row, case), "the lines of what was refused")
        assert [(line["status"], line["outcome"]) for line in lines] == [(429, "refused")] * row.quota_asks
        return

    def booked() -> list[dict[str, Any]]:
        lines, used = runs.lines(row, case), stack.used(email(row, case))
        kinds = ("input_tokens", "output_tokens")
        told = [len(lines), *(sum(line[kind] for line in lines) for kind in kinds)]
        return lines if told == [used["ai_requests"], *(used[f"ai_{kind}"] for kind in kinds)] else []

    lines = wait_until(booked, f"the books of {email(row, case)}")
    assert {line["outcome"] for line in lines} == {"client_gone" if case == "abort" else "ok"}
    assert {line["provider"] for line in lines} == {row.provider or "openai"}
    assert {line["route"] for line in lines} <= {*row.asks, *(route.replace("v1beta", "v1") for route in row.asks)}
    if case == "abort":
        assert 0 < sum(line["output_tokens"] for line in lines) < LONG_TOKENS

"""The README walked by a newcomer: its commands run as they are printed, and show what it says they show.

Only two things differ: the port, for many tests run at the same time, and the token, which is each installation's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import request
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.system.test_command_dev import dev, snippets

ROOT = Path(__file__).parents[2]
USE_IT = "Use it: your OpenAI key, your users"
SOON_SECONDS = 10.0
"""A second on a machine with nothing else to do."""
README = (ROOT / "README.md").read_text()


def blocks(heading: str, language: str) -> list[str]:
    """The fenced blocks of a section."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [block for kind, block in found if kind == language]


def session(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with what is shown below it."""
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n", part)
        assert command is not None
        found.append((command[0].strip(), part[command.end() :]))
    return found


def like(shown: str) -> re.Pattern[str]:
    """What matches the output that is shown: `...` stands for anything, digits after a colon for any port."""
    text = re.escape(shown.strip()).replace(r"\.\.\.", "(?s:.*)")
    return re.compile(re.sub(r"(127\\\.0\\\.0\\\.1:)\d+", r"\1\\d+", text))


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )


def test_the_first_page_works_as_it_is_printed(tmp_path: Path) -> None:
    """Greeting, token, streamed request and the Python program."""
    heading = "Look at it: a simulated provider, no account"
    start, first_requests = (session(block) for block in blocks(heading, "console"))
    (greeting,) = blocks(heading, "")
    (program,) = blocks(heading, "python")
    assert [command for command, _ in start][-1] == "make run"
    with dev(tmp_path / "dev") as running:
        assert like(greeting).search(running.output)
        export = snippets(running.output)[0]
        (shown_export, _), *requests = first_requests
        assert re.sub(r"[\w-]{43}$", "", export) == re.sub(r"[\w-]{43}$", "", shown_export)
        for command, shown in requests:
            done = run(f"{export}\n{command.replace(':8080', f':{running.port}')}", tmp_path)
            assert done.returncode == 0
            assert like(shown).fullmatch(done.stdout.strip())
        (tmp_path / "program.py").write_text(program.replace(":8080", f":{running.port}"))
        done = run(f"{export}\n{sys.executable} program.py", tmp_path)
        assert "simulated model" in done.stdout, done.stderr


class _Team:
    """The section for a team, walked in a folder. printed: what differs here from the page, and is put in its place."""

    def __init__(self, folder: Path, port: int, **environment: str) -> None:
        (folder / "sentinel").symlink_to(ROOT / "sentinel")
        self.folder = folder
        self.port = port
        self.environment = environment
        self.printed: dict[str, str] = {}

    def run(self, command: str) -> str:
        """Run a command of the page; what it says."""
        for shown, real in self.printed.items():
            command = command.replace(shown, real)
        done = run(command, self.folder, **self.environment)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def ask(self, key: str) -> tuple[int, Any]:
        """What an OpenAI client gets for a short chat."""
        body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answer = request(self.port, "POST", "/v1/chat/completions", body, headers)
        return answer.status, answer.json


def test_a_team_uses_it_as_it_is_printed(stack: Stack, tmp_path: Path, postgres_url: str) -> None:
    """A plan, a user, a key; a limit that is reached, more of it, a lost key, the usage, and the move to PostgreSQL."""
    start, *pages = [[command for command, _ in session(block)] for block in blocks(USE_IT, "console")]
    assert start == ["export OPENAI_API_KEY=sk-...", "make run"]
    set_up, more, lost, usage, move = pages
    provider: dict[str, Any] = {
        "OPENAI_API_KEY": stack.simulators.openai_key,
        "OPENAI_API_URL": stack.simulators.openai_url,
    }
    folder = tmp_path / "team"
    with dev(folder, **provider) as running:
        team = _Team(folder, running.port)
        key = [team.run(command) for command in set_up][-1].strip()
        other = team.run("./sentinel governance user add bo@example.com --plan team") and team.run(
            "./sentinel governance key add bo@example.com"
        )
        assert [team.ask(key)[0] for _ in range(3)] == [200] * 3
        status, told = team.ask(key)
        assert (status, told["error"]["code"]) == (429, "insufficient_quota")
        assert team.ask(other.strip())[0] == 200
        team.run(more[0])
        wait_until(lambda: team.ask(key)[0] == 200, "more of it", seconds=SOON_SECONDS)
        team.run(more[1])
        listed = team.run(lost[0])
        (key_id,) = re.findall(r"^key_[0-9a-f]+", listed, re.MULTILINE)
        team.printed = {"key_f34570cd14dd0775": key_id}
        team.run(lost[1])
        wait_until(lambda: team.ask(key)[0] == 401, "the key is refused", seconds=SOON_SECONDS)
        # Usage is told every second.
        wait_until(lambda: re.search(r"^ana@example.com +4 ", team.run(usage[0]), re.MULTILINE), "the usage")
        before = team.run(usage[0])
        assert running.interrupt() == 0
    page = "postgresql://sentinel:secret@127.0.0.1/sentinel"
    team.printed[page] = postgres_url.replace("postgresql+psycopg:", "postgresql:")
    team.run(move[0])
    assert move[1:] == [f"export GOVERNANCE_DATABASE_URL={page}", "make run"]
    moved: dict[str, Any] = {"GOVERNANCE_DATABASE_URL": team.printed[page]}
    with dev(folder, **provider, **moved) as running:
        team.port, team.environment = running.port, moved
        assert team.run(usage[0]) == before
        assert (team.ask(other.strip())[0], team.ask(key)[0]) == (200, 401)
        assert running.interrupt() == 0


def test_make_run_starts_what_the_first_page_shows() -> None:
    """`make run` is `sentinel dev`, and hands ARGS on, as the page has it."""
    assert "`make run ARGS=--logs`" in README
    done = run("make --dry-run run ARGS=--logs", ROOT)
    assert done.stdout.splitlines()[-1] == ".venv/bin/sentinel dev --logs"


@pytest.mark.parametrize("folder", ["checkout", "elsewhere"])
def test_the_steps_of_running_it_work_as_they_are_printed(stack: Stack, tmp_path: Path, folder: str) -> None:
    """`cp`, fill in, `./sentinel doctor`: all is well; also where the launcher is called from another folder."""
    copy, doctor, serve = (command for command, _ in session(blocks("Running it", "console")[0]))
    assert serve == "./sentinel serve"
    launcher = ROOT / "sentinel"
    if folder == "checkout":
        (tmp_path / "sentinel").symlink_to(launcher)
    else:
        doctor = doctor.replace("./sentinel", str(launcher))
    (tmp_path / ".env.example").write_bytes((ROOT / ".env.example").read_bytes())
    assert run(copy, tmp_path).returncode == 0
    simulators = stack.simulators
    filled = {
        "ZION_API_URL": simulators.zion_url,
        "ZION_API_KEY": simulators.zion_key,
        "OPENAI_API_KEY": simulators.openai_key,
        "OPENAI_API_URL": simulators.openai_url,
        "REDIS_URL": stack.store.url,
    }
    with (tmp_path / ".env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in filled.items())
    done = run(doctor, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line[:6] for line in done.stdout.splitlines()} == {"ok    "}


def test_every_command_of_ours_in_the_docs_exists() -> None:
    """What a page calls `sentinel X` is a command."""
    help_text = run(f"{sys.executable} -m sentinel --help", ROOT).stdout
    known = set(re.findall(r"^    ([\w-]+)(?: |$)", help_text, re.MULTILINE))
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / ".env.example", ROOT / "docker-compose.yml"]
    for page in pages:
        named = re.findall(r"(?:`|\$ |/)sentinel ([a-z-]+)", page.read_text())
        assert set(named) <= known, page

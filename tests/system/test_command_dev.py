"""`sentinel dev` as a developer has it: started, its snippets pasted, ended with Ctrl-C.

About: `dev/command.py`, `dev/governance.py`, `dev/greeting.py`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sentinel.config import ConfigError, load
from sentinel.dev import governance
from sentinel.dev.ports import free_port
from sentinel.governance_settings import GovernanceSettings
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE_SECONDS, wait_until

COMMAND = str(Path(sys.executable).parent / "sentinel")
LAUNCHER = Path(__file__).parents[2] / "sentinel"


@dataclass
class Dev:
    """A running `sentinel dev`, in a session of its own like a terminal's foreground job."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def descendants(self) -> list[int]:
        """All processes of the job."""
        stats = [entry / "stat" for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        parents: dict[int, int] = {}
        for stat in stats:
            try:
                name, fields = stat.parent.name, stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(name)] = int(fields[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def interrupt(self) -> int:
        """Ctrl-C: the whole foreground group gets SIGINT."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(20)


@contextmanager
def dev(folder: Path, *arguments: str, wait: bool = True, **settings: str) -> Iterator[Dev]:
    port = int(settings.setdefault("SENTINEL_PORT", str(free_port())))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **settings}
    folder.mkdir(exist_ok=True)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [COMMAND, "dev", *arguments],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Dev(process, folder, port)
    try:
        if wait:
            wait_until(lambda: "is ready at" in running.output or process.poll() is not None, "the greeting")
            assert process.poll() is None, running.output
        yield running
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def paste(text: str, folder: Path, export: str = "") -> str:
    """Run a snippet as a shell would, in which `export` was pasted before; its output."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        ["bash", "-c", f"{export}\n{text}"], env=environment, cwd=folder, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def snippets(output: str) -> list[str]:
    """What the greeting offers to paste, in its order: export, curl, streamed curl, SDK."""
    return re.findall(
        r"^(?:export [^\n]+|curl (?:[^\n]*(?:\\\n|'\{[^\n]*,\n))*[^\n]*|\S*python3? - <<'PYTHON'.*?^PYTHON)$",
        output,
        re.MULTILINE | re.DOTALL,
    )


def test_one_command_gives_all_there_is_to_try(tmp_path: Path) -> None:
    """Token, curl and SDK snippets work as they are printed, also after a restart; Ctrl-C ends all of it."""
    exports = set()
    for _ in range(2):  # The second time on the same data.
        with dev(tmp_path / "dev") as running:
            export, curl, streamed, python, fail, asked, mend = snippets(running.output)
            exports.add(export)
            token = shlex.split(export)[1].removeprefix("SENTINEL_TOKEN=")
            assert running.output.count(token) == 1
            assert max(len(line) for line in running.output.replace(sys.executable, "python3").splitlines()) <= 100
            assert f"http://127.0.0.1:{running.port}" in running.output
            assert "simulated model" in paste(curl, tmp_path, export)
            answer = paste(streamed, tmp_path, export)
            assert answer.startswith("data: {")
            assert answer.endswith("data: [DONE]\n\n")
            assert "simulated model" in paste(python, tmp_path, export)
            paste(fail, tmp_path)
            assert "x-sentinel-provider: second" in paste(asked, tmp_path, export)
            paste(mend, tmp_path)
            job = running.descendants()
            assert len(job) >= 2
            assert running.interrupt() == 0
            assert not [pid for pid in job if Path(f"/proc/{pid}").exists()]
        assert "Traceback" not in running.output
        assert '"event"' not in running.output
        log = (running.folder / ".sentinel/sentinel.log").read_text()
        assert "sentinel has stopped" in log
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        troubles = {line["event"] for line in lines if line["level"] not in ("debug", "info")}
        # A machine with too much to do holds up its Redis.
        assert troubles <= {"redis misses its deadline"}
    assert len(exports) == 1
    assert (tmp_path / "dev" / ".sentinel" / "store").is_dir()


@pytest.mark.parametrize(
    ("vendors", "model"),
    [
        (["azure"], "gpt-4o-mini"),
        (["anthropic"], "claude-haiku-5-5"),
        (["gemini"], "gemini-2.5-flash"),
        (["vllm"], "openai/gpt-oss-120b"),
        (["openrouter", "azure"], "openai/gpt-4o-mini"),
    ],
    ids=str,
)
def test_another_vendor_to_try(tmp_path: Path, vendors: list[str], model: str) -> None:
    """Its models stand in the commands, which work as they are printed, and it fails over to the second one."""
    arguments = [word for vendor in vendors for word in ("--provider", vendor)]
    with dev(tmp_path / "dev", *arguments) as running:
        export, curl, streamed, python, fail, asked, mend = snippets(running.output)
        other = "a second one" if len(vendors) == 1 else vendors[1]
        assert f"(simulated {vendors[0]}), and {other} where that fails" in running.output
        lines = running.output.replace(sys.executable, "python3").splitlines()
        assert [line for line in lines if len(line) > 100] == []
        assert f'"{model}"' in curl
        for request in (curl, streamed, python):
            assert "simulated" in paste(request, tmp_path, export)
        paste(fail, tmp_path)
        assert "x-sentinel-provider: second" in paste(asked, tmp_path, export)
        paste(mend, tmp_path)
        assert running.interrupt() == 0


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        (["azur"], {}, "nobody simulates 'azur'; there are openai, azure, anthropic, gemini, vllm, openrouter"),
        (["azure"] * 3, {}, "there is room for 2 of them, and 3 are named"),
        (["azure"], {"OPENAI_API_KEY": "sk-real-key"}, "OPENAI_API_KEY is: leave one of them"),
        (["azure", "--simulators", "vllm"], {}, "there is room for 1 of them, and 2 are named"),
    ],
    ids=["unknown", "too many", "in vain", "simulators alone"],
)
def test_a_vendor_that_cannot_be(tmp_path: Path, arguments: list[str], settings: dict[str, str], told: str) -> None:
    """One line, status 2."""
    words = [word for each in arguments for word in ([each] if each.startswith("--") else ["--provider", each])]
    given: dict[str, Any] = settings
    with dev(tmp_path / "dev", *words, wait=False, **given) as running:
        assert running.process.wait(20) == 2
        assert told in running.output


def test_logs_come_to_the_terminal_where_they_are_asked_for(tmp_path: Path) -> None:
    """With --logs there are lines on stdout, and no file."""
    with dev(tmp_path / "dev", "--logs") as running:
        assert "logs        here" in running.output
        assert running.interrupt() == 0
        assert '"event":"sentinel has stopped"' in running.output
    assert not (tmp_path / "dev/.sentinel/sentinel.log").exists()


def test_a_second_one_in_a_folder_is_told_of_the_first(tmp_path: Path) -> None:
    """It says who runs where, and what to do instead, and touches nothing; a killed one is in nobody's way."""
    folder = tmp_path / "dev"
    with dev(folder) as first:
        log = (folder / ".sentinel/sentinel.log").stat().st_ino
        second = subprocess.run(
            [COMMAND, "dev"], env={"PATH": os.environ["PATH"]}, cwd=folder, capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        assert f"(pid {first.process.pid}, at http://127.0.0.1:{first.port})" in second.stderr
        command = second.stderr.splitlines()[-1]
        assert re.fullmatch(r"  SENTINEL_PORT=\d+ .* dev --data .sentinel-2", command)
        assert (folder / ".sentinel/sentinel.log").stat().st_ino == log
        first.process.kill()
        first.process.wait(10)
    with dev(folder) as again:
        assert again.interrupt() == 0


def test_a_second_ctrl_c_ends_all_of_it_at_once(tmp_path: Path) -> None:
    """With a stream open: the first says what it waits for, the second leaves no process and no traceback."""
    with dev(tmp_path / "dev") as running:
        token = shlex.split(snippets(running.output)[0])[1].removeprefix("SENTINEL_TOKEN=")
        request = urllib.request.Request(
            f"http://127.0.0.1:{running.port}/v1/chat/completions",
            b'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"[[tokens=900 delay=0.05]]"}]}',
            {"Authorization": f"Bearer {token}"},
        )
        job = running.descendants()
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            assert answer.readline().startswith(b"data: ")
            os.killpg(running.process.pid, signal.SIGINT)
            wait_until(lambda: "Waiting up to 30 s for 1 open request" in running.output, "a word")
            os.killpg(running.process.pid, signal.SIGINT)
            assert running.process.wait(5) == 130
        assert "Traceback" not in running.output
        assert not [pid for pid in job if Path(f"/proc/{pid}").exists()]


def test_two_that_start_at_once_have_a_governance_each() -> None:
    """Of two that want the same port the second one gets another, before either serves."""
    settings = load(GovernanceSettings, governance_port=free_port())
    first, second = (governance.bind(settings, must_have=False) for _ in range(2))
    with first.listener, second.listener:
        assert first.url != second.url
    with pytest.raises(ConfigError, match="GOVERNANCE_PORT"), governance.bind(settings, must_have=True).listener:
        governance.bind(settings, must_have=True)


def test_a_port_in_use_is_told_clearly(tmp_path: Path) -> None:
    """One line says which port, and what to paste to use another; nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with dev(tmp_path / "dev", wait=False, SENTINEL_PORT=str(port)) as running:
            assert running.process.wait(20) == 2
            assert f"port {port}: Address already in use; another port: SENTINEL_PORT=" in running.output
            assert "Traceback" not in running.output
            hint = running.output.strip().rpartition("another port: ")[2]
        assert hint.endswith(" dev")
        assert shlex.split(hint)[1] == COMMAND or Path(shlex.split(hint)[1]).samefile(LAUNCHER)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """--data that leads to a file: one line, status 2."""
    (tmp_path / "file").write_text("")
    with dev(tmp_path / "dev", "--data", str(tmp_path / "file" / "x"), wait=False) as running:
        assert running.process.wait(20) == 2
        assert "--data" in running.output
        assert "Traceback" not in running.output


def test_a_wrong_setting_is_told_as_by_serve(tmp_path: Path) -> None:
    """All mistakes, status 2, no stack trace."""
    with dev(tmp_path / "dev", wait=False, LOG_LEVEL="loud", RATE_LIMITS="x", ZION_API_URL="http://z") as running:
        assert running.process.wait(20) == 2
        for name in ("LOG_LEVEL", "RATE_LIMITS", "ZION_API_KEY"):
            assert f"  - {name}" in running.output
        assert "Traceback" not in running.output


@pytest.mark.parametrize("given", [{"REDIS_URL"}, {"ZION_API_URL"}, {"OPENAI_API_KEY"}, {".env"}], ids=str)
def test_what_is_given_replaces_its_stand_in(stack: Stack, tmp_path: Path, given: set[str]) -> None:
    """Each of REDIS_URL, ZION_API_URL and OPENAI_API_KEY, in the environment or .env, replaces a simulator."""
    real = stack.simulators
    settings: dict[str, Any] = {}
    if "REDIS_URL" in given:
        settings["REDIS_URL"] = stack.store.url
    if given & {"ZION_API_URL", ".env"}:
        settings |= {"ZION_API_URL": real.zion_url, "ZION_API_KEY": real.zion_key}
    if given & {"OPENAI_API_KEY", ".env"}:
        settings |= {"OPENAI_API_KEY": real.openai_key, "OPENAI_API_URL": real.openai_url}
    folder = tmp_path / "dev"
    folder.mkdir()
    if ".env" in given:
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        settings = {}
    with dev(folder, **settings) as running:
        output = running.output
        assert (stack.store.url.removeprefix("redis://") in output) == ("REDIS_URL" in given)
        assert (real.zion_url in output) == bool(given & {"ZION_API_URL", ".env"})
        assert (real.openai_url in output) == bool(given & {"OPENAI_API_KEY", ".env"})
        if real.zion_url in output:
            assert snippets(output) == []  # Nobody here has a token for a real Zion.
            _, token = stack.user("developer@corp.test")
        else:
            token = shlex.split(snippets(output)[0])[1].removeprefix("SENTINEL_TOKEN=")
        before = len(real.openai.calls)
        request = urllib.request.Request(
            f"http://127.0.0.1:{running.port}/v1/chat/completions",
            b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}',
            {"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            assert answer.status == 200
        assert any(call.method == "POST" for call in list(real.openai.calls)[before:]) == (real.openai_url in output)
        assert running.interrupt() == 0
        assert "Traceback" not in running.output

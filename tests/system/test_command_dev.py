"""`sentinel dev` as a developer has it: started, its snippets pasted, ended with Ctrl-C."""

from __future__ import annotations

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

import pytest

from tests.stack import Stack, free_port, wait_until

COMMAND = str(Path(sys.executable).parent / "sentinel")


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
            wait_until(lambda: "is ready at" in running.output or process.poll() is not None, 30, "the greeting")
            assert process.poll() is None, running.output
        yield running
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def paste(text: str, folder: Path) -> str:
    """Run a snippet as a shell would; its output."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        ["bash", "-c", text], env=environment, cwd=folder, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def snippets(output: str) -> list[str]:
    """What the greeting offers to paste, in its order: export, curl, streamed curl, SDK."""
    return re.findall(
        r"^(?:export [^\n]+|curl .*?\n(?=\n)|\S*python3? - <<'PYTHON'.*?^PYTHON)$", output, re.MULTILINE | re.DOTALL
    )


def test_one_command_gives_all_there_is_to_try(tmp_path: Path) -> None:
    """Address, token, curl and SDK snippets work as they are printed; usage arrives; Ctrl-C ends all of it; twice."""
    for _ in range(2):  # The second time on the same data.
        with dev(tmp_path / "dev") as running:
            export, curl, streamed, python = snippets(running.output)
            token = shlex.split(export)[1].removeprefix("SENTINEL_TOKEN=")
            assert token.count(".") == 2
            assert f"http://127.0.0.1:{running.port}" in running.output
            assert "simulated model" in paste(curl, tmp_path)
            answer = paste(streamed, tmp_path)
            assert answer.startswith("data: {")
            assert answer.endswith("data: [DONE]\n\n")
            assert paste(python, tmp_path).count("simulated model") == 2
            job = running.descendants()
            assert len(job) >= 2
            assert running.interrupt() == 0
            assert not [pid for pid in job if Path(f"/proc/{pid}").exists()]
        log = running.output
        assert "sentinel has stopped" in log
        assert "Traceback" not in log
        assert '"level":"error"' not in log
        assert '"level":"warning"' not in log
    assert (tmp_path / "dev" / ".sentinel" / "store").is_dir()


def test_a_port_in_use_is_told_clearly(tmp_path: Path) -> None:
    """One line says which port, and nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with dev(tmp_path / "dev", wait=False, SENTINEL_PORT=str(port)) as running:
            assert running.process.wait(20) == 2
            assert f"port {port}: Address already in use" in running.output
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
    settings = {}
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
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        assert any(call.method == "POST" for call in list(real.openai.calls)[before:]) == (real.openai_url in output)
        assert running.interrupt() == 0
        assert "Traceback" not in running.output

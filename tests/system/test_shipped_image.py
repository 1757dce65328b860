"""The image and docker-compose.yml, run without a container engine: the same command, user, mounts and rights."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import shipped
from tests.support.processes import children_of, state_of, told_of
from tests.support.sandbox import Sandbox
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.system.test_command_serve import workers_of

ROOT = Path(__file__).resolve().parents[2]
BIN = str(Path(sys.executable).parent)


def instructions() -> dict[str, str]:
    """What the Dockerfile's last stage ends with, each instruction once."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#"))


def environment() -> dict[str, str]:
    """ENV of the image, with the tests' environment in place of the image's."""
    words = re.findall(r"(\w+)=(\S+)", instructions()["ENV"])
    return {name: value.replace("/opt/sentinel/bin", BIN).replace("$PATH", os.environ["PATH"]) for name, value in words}


def image_command() -> list[str]:
    """ENTRYPOINT and CMD."""
    return [*yaml.safe_load(instructions()["ENTRYPOINT"]), *yaml.safe_load(instructions()["CMD"])]


def health_command() -> list[str]:
    """The command of HEALTHCHECK."""
    command: list[str] = yaml.safe_load(instructions()["HEALTHCHECK"].split("CMD ", 1)[1])
    return command


def container(volume: Path, **changes: Any) -> Sandbox:
    """What docker-compose.yml makes of the image, with this folder as its volume."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["sentinel"]
    volume.mkdir(exist_ok=True)
    ((_, place),) = (entry.split(":") for entry in service["volumes"])
    fields: dict[str, Any] = {
        "read_only": service["read_only"],
        "empty": service["tmpfs"],
        "own": {place: str(volume)},
        "capabilities": service["cap_drop"] != ["ALL"],
        "new_privileges": "no-new-privileges:true" not in service["security_opt"],
        "user": int(instructions()["USER"].split(":")[0]),
        "private_devices": True,
        "first_process": True,
        "folder": instructions()["WORKDIR"],
    }
    return Sandbox(**{**fields, **changes})


def is_healthy(sentinel: SentinelProcess) -> bool:
    """Whether the image's own check says so."""
    given = {**environment(), "SENTINEL_PORT": str(sentinel.port), "HTTP_PROXY": "http://127.0.0.1:9"}
    return subprocess.run(health_command(), env=given, check=False, timeout=2 * PATIENCE_SECONDS).returncode == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_of_everything_is_served_by_the_image(stack: Stack, tmp_path: Path, workers: str) -> None:
    """As the first process, without rights, a home or a name for its user, on file systems that are read-only."""
    settings = {**environment(), "SENTINEL_WORKERS": workers}
    sentinel = shipped.locked_up(stack, container(tmp_path / "volume"), *image_command(), **settings)
    assert is_healthy(sentinel)
    shipped.serves_everything(stack, sentinel, f"image-{workers}@corp.test")
    assert not is_healthy(sentinel)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_reach_the_first_process(stack: Stack, tmp_path: Path, workers: str) -> None:
    """The kernel gives it only what it listens to: SIGHUP ends nothing, SIGQUIT ends it, with its usage delivered."""
    settings = {**environment(), "SENTINEL_WORKERS": workers, "USAGE_FLUSH_SECONDS": "60"}
    sentinel = shipped.locked_up(stack, container(tmp_path / "volume"), *image_command(), **settings)
    email = f"first-{workers}@corp.test"
    _, token = stack.user(email)
    sentinel.signal(signal.SIGHUP)
    wait_until(lambda: any("nothing to reload" in line["event"] for line in sentinel.log()), "SIGHUP")
    assert post(sentinel, token, chat("[[tokens=3]]")).status == 200
    sentinel.signal(signal.SIGQUIT)
    assert sentinel.process is not None
    assert sentinel.process.wait(20) == 0
    assert stack.used(email)["ai_output_tokens"] == 3


def test_the_first_process_leaves_no_zombies(stack: Stack, tmp_path: Path) -> None:
    """Workers that are killed are replaced, and their remains go."""
    settings = {**environment(), "SENTINEL_WORKERS": "2"}
    sentinel = shipped.locked_up(stack, container(tmp_path / "volume"), *image_command(), **settings)
    wait_until(lambda: len(workers_of(sentinel)) == 2, "two workers")
    (first,) = children_of(sentinel.pid)

    def workers() -> set[int]:
        return {child for child in children_of(first) if "spawn_main" in told_of(child, "cmdline")}

    before = workers()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(workers() - before) == 2, "new workers")
    assert "Z" not in map(state_of, children_of(first))
    assert sentinel.stop() == 0


def test_workers_without_a_temporary_folder_are_told(tmp_path: Path) -> None:
    """Several workers share their metrics through files; where none can be, the start says so, by the setting."""
    shipped.needs_sandbox()
    sandbox = container(tmp_path / "volume", own={}, empty=[], folder="/")
    settings = {"ZION_API_URL": "http://127.0.0.1:9", "ZION_API_KEY": "k", "OPENAI_API_KEY": "k"}
    spool = {"SPOOL_DIR": "/dev/shm/spool", "TMPDIR": "/no/such/folder", "SENTINEL_PORT": "0"}
    started = subprocess.run(
        sandbox.command(*image_command()),
        env={**environment(), **settings, **spool, "SENTINEL_WORKERS": "2", "SENTINEL_PORT": "18473"},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_SECONDS,
    )
    assert started.returncode == 2
    assert "SENTINEL_WORKERS: " in started.stderr
    assert "Traceback" not in started.stderr

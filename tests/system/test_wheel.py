"""The wheel, installed alone: what a checkout has beside it must not be needed."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.stack import Stack
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout by the locked build tool, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=2 * PATIENCE_SECONDS)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A fresh environment with the wheel and what requirements/run.txt names; returns its folder of commands."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for name in re.findall(r"^([a-z][\w.-]*)==", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE):
        _link(name, packages)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=2 * PATIENCE_SECONDS)
    return python.parent


def _link(name: str, packages: Path) -> None:
    """Lend a package of ours to another environment."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # Of another version of Python, says its marker.
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (packages / top).exists():
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))))


def test_it_holds_every_file_of_the_package(wheel: Path) -> None:
    """Scripts in Lua and the mark of a typed package come along."""
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], check=True, capture_output=True, text=True)
    files = {line.split()[0] for line in listed.stdout.splitlines()[1:]}
    source = ROOT / "src"
    ours = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert {name for name in ours if "__pycache__" not in name} <= files


def test_it_serves_without_the_checkout(stack: Stack, environment: Path) -> None:
    """`sentinel serve` of the wheel is live, is ready, and answers a request."""
    asked = "import sentinel; print(sentinel.__file__)"
    found = subprocess.run([environment / "python", "-c", asked], check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(environment.parent)
    sentinel = stack.sentinel(start=False)
    sentinel.command = [str(environment / "sentinel"), "serve"]
    sentinel.start()
    assert sentinel.get("/health/live")[0] == 200
    _, token = stack.user("wheel@corp.test")
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "[[tokens=3]]"}]}).encode()
    status, _, answer = sentinel.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {token}"})
    assert (status, json.loads(answer)["usage"]["completion_tokens"]) == (http.client.OK, 3)
    assert sentinel.stop() == 0

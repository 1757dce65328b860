"""What a command prints to be pasted leads back to the same installation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sentinel.invocation import invocation, with_setting


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with its environment, of which nothing is on PATH."""
    folder = tmp_path / "check out"
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / "Makefile").write_text("")
    for script in (folder / "sentinel", folder / ".venv/bin/sentinel"):
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("MAKELEVEL", raising=False)
    monkeypatch.setattr(sys, "argv", [str(folder / ".venv/bin/sentinel")])
    return folder


def test_a_checkout_has_its_launcher(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the checkout by a short path, elsewhere by a whole one, quoted where a shell needs it."""
    monkeypatch.chdir(checkout)
    assert invocation() == "./sentinel"
    monkeypatch.chdir("/usr")
    assert invocation() == f"'{checkout}/sentinel'"


def test_without_a_launcher_it_is_the_script(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment beside something else than our checkout."""
    (checkout / "Makefile").unlink()
    monkeypatch.chdir(checkout)
    assert invocation() == ".venv/bin/sentinel"


@pytest.mark.parametrize("where", [".venv/bin", "."])
def test_on_path_it_is_the_name(checkout: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """With the environment activated, or the launcher on PATH."""
    monkeypatch.setenv("PATH", str(checkout / where))
    assert invocation() == "sentinel"


def test_a_namesake_on_path_is_not_taken_for_ours(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program of this name stands first on PATH."""
    (tmp_path / "sentinel").write_text("#!/bin/sh\n")
    (tmp_path / "sentinel").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(checkout)
    assert invocation() == "./sentinel"


def test_a_module_is_run_by_its_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`python -m sentinel`, with the interpreter's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/lib/sentinel/__main__.py"])
    monkeypatch.setattr(sys, "executable", "/opt/sentinel/bin/python3")
    assert invocation() == "/opt/sentinel/bin/python3 -m sentinel"


def test_what_make_started_is_started_by_make(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make run` in the checkout; a Makefile of others, or another command of ours, has no such verb."""
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("MAKELEVEL", "1")
    assert with_setting("SENTINEL_PORT=8081", "dev") == "SENTINEL_PORT=8081 make run"
    assert with_setting("SENTINEL_PORT=8081", "serve") == "SENTINEL_PORT=8081 ./sentinel serve"
    monkeypatch.chdir(checkout.parent)
    assert with_setting("SENTINEL_PORT=8081", "dev").endswith("sentinel' dev")

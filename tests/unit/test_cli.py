"""The command's arguments and exit statuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel import __version__, cli
from sentinel.config import ConfigError


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """`sentinel --version`."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"sentinel {__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "--fast"], ["dev", "--data"]])
def test_a_wrong_call_is_a_wrong_start(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, with the usage."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: sentinel" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "doctor", "replay"])
def test_wrong_settings_are_a_wrong_start(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command lists the mistakes and returns 2."""

    def wrong() -> None:
        raise ConfigError(["A is wrong", "B is missing"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "load_settings", wrong)
    assert cli.main([command]) == cli.WRONG_START == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["  - A is wrong", "  - B is missing"]

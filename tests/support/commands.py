"""`sentinel governance ...` as it is typed, in the test's own process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from sentinel import cli


def typed(*words: str) -> int:
    """The exit status of a command."""
    try:
        return cli.main(["governance", *words])
    except SystemExit as error:
        return int(error.code or 0)


@dataclass
class Console:
    """Where commands are typed."""

    captured: pytest.CaptureFixture[str]

    def run(self, *words: str, status: int = 0) -> tuple[str, str]:
        """What a command writes to stdout and stderr."""
        self.captured.readouterr()
        found = typed(*words)
        out, err = self.captured.readouterr()
        assert (found, "Traceback" in err) == (status, False), err
        return out, err

    def json(self, *words: str) -> Any:
        """The document that it answers with."""
        return json.loads(self.run(*words, "--json")[0])

    def fails(self, *words: str) -> str:
        """The one line that it fails with."""
        out, err = self.run(*words, status=1)
        assert out == ""
        assert err.count("\n") == 1
        return err.strip()

"""Wall clocks that tests turn while processes run, by libfaketime (Debian: faketime). Monotonic clocks go on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_LIBRARIES = [
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib/faketime").glob("libfaketimeMT.so.1"),
]


class WallClock:
    """The wall clock of one or several processes. environment: what makes a process go by it."""

    def __init__(self, file: Path) -> None:
        library = next(map(str, _LIBRARIES), None)
        if library is None:
            pytest.skip("libfaketime is missing: apt-get install faketime")
        self._file = file
        self.turn(0)
        self.environment = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def turn(self, seconds: int) -> None:
        """Let it be so many seconds later than it is."""
        other = self._file.with_suffix(".new")
        other.write_text(f"{seconds:+d}")
        other.rename(self._file)

    @contextmanager
    def for_children(self) -> Iterator[None]:
        """What is started meanwhile goes by this clock."""
        before: dict[str, Any] = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value

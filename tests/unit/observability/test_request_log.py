"""Which requests have a line at which LOG_LEVEL."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from sentinel.clock import monotonic
from sentinel.observability.logs import LineWriter
from sentinel.observability.request_log import RequestLog
from sentinel.proxy.logging import Level, RequestContext


@pytest.mark.parametrize(
    ("log_level", "written"),
    [("debug", ["exchange", "info", "debug"]), ("info", ["exchange", "info"]), ("warning", []), ("error", [])],
)
def test_log_level_decides_which_lines_are_written(tmp_path: Path, log_level: str, written: list[str]) -> None:
    """A request of a metered endpoint is of level info, what machines ask every few seconds of level debug."""
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    lines = LineWriter(file)
    log = RequestLog(lines, log_level)
    now = monotonic()
    log.exchange_ended(RequestContext("exchange", None, now), now)
    levels: tuple[Level, ...] = ("info", "debug")
    for level in levels:
        log.request_ended(RequestContext(level, None, now), now, level)
    lines.close()
    os.close(file)
    found = [msgspec.json.decode(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [line["request_id"] for line in found] == written
    assert [line["level"] for line in found] == ["debug" if name == "debug" else "info" for name in written]

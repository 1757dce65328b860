"""Log lines: JSON, whole, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator

import pytest
import structlog

from sentinel.observability.logs import MOST_LINES, LineWriter, configure


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


def everything(read: int, write: int) -> bytes:
    os.close(write)
    pieces = []
    while piece := os.read(read, 65536):
        pieces.append(piece)
    return b"".join(pieces)


def test_lines_come_out_whole_and_in_order(pipe: tuple[int, int]) -> None:
    """What four threads write at once is all there, line by line."""
    read, write = pipe
    writer = LineWriter(write)

    def work(name: int) -> None:
        for index in range(100):
            writer.write(b"%d %d\n" % (name, index))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    lines = [line.split() for line in everything(read, write).splitlines()]
    assert len(lines) == 400
    for name in range(4):
        assert [int(index) for who, index in lines if int(who) == name] == list(range(100))


def test_a_stuck_reader_holds_nobody_up(pipe: tuple[int, int]) -> None:
    """When nobody reads, lines are kept up to a bound and dropped beyond it; writing never waits."""
    read, write = pipe
    writer = LineWriter(write)
    # Its thread may have taken as many as it keeps before it is stuck.
    for _ in range(2 * MOST_LINES + 2000):
        writer.write(b"x" * 100 + b"\n")
    assert writer.dropped > 0
    # Its thread must not live to write into whatever gets the number of this pipe next.
    os.close(read)
    writer.close()


def test_a_reader_that_left_is_no_error(pipe: tuple[int, int]) -> None:
    """A broken pipe costs the lines, not the service; late lines after the end are taken, too."""
    read, write = pipe
    os.close(read)
    writer = LineWriter(write)
    writer.write(b"lost\n")
    writer.close()
    writer.write(b"lost, too\n")
    assert writer.dropped == 2


def test_a_line_after_the_end_is_written_at_once(pipe: tuple[int, int]) -> None:
    """What is logged while the process ends is not lost."""
    read, write = pipe
    writer = LineWriter(write)
    writer.write(b"before\n")
    writer.close()
    writer.write(b"after\n")
    assert everything(read, write) == b"before\nafter\n"


def test_every_line_is_json_with_its_level_and_time(pipe: tuple[int, int]) -> None:
    """Lines of structlog, those of the standard module, and tracebacks alike."""
    read, write = pipe
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    writer = configure("info", write)
    try:
        structlog.get_logger().info("said", number=1, nothing=None, odd=object(), text="é\n")
        structlog.get_logger().debug("unheard")
        logging.getLogger("library").warning("heard %s", "too")
        logging.getLogger("library").info("chatter")
        try:
            int("broken")
        except ValueError:
            structlog.get_logger().exception("failed")
        writer.close()
        lines = [json.loads(line) for line in everything(read, write).splitlines()]
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert [line["event"] for line in lines] == ["said", "heard too", "failed"]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert (lines[0]["number"], "nothing" in lines[0], lines[1]["logger"]) == (1, False, "library")
    assert "ValueError: invalid literal" in lines[2]["exception"]

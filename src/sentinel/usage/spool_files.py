"""The files of the spool: their names, locks and lines, and what is set aside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Self

AT_ONCE_BYTES = 16 * 1024
"""Replayed at once, about 80 lines: what is kept in memory, and at most what is settled again after a kill."""

_MOST_LINE_BYTES = 1_048_576
"""No line of ours is longer; a damaged disk may give gigabytes without an end of line."""

RETRY_MS = 5000
"""So long a line waits that Redis refused for the keys of its user."""

_NAME = re.compile(r"(?P<base>.+?)(?:~(?P<upto>\d{1,15})~(?P<tried>\d{1,15}))?~(?P<offset>\d{1,15})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file has been replayed: `base[~upto~tried_ms]~offset.jsonl`. Offsets in bytes.

    Lines before `upto` were tried at this moment, and may have been carried out.
    """

    base: str
    offset: int = 0
    upto: int = 0
    tried_ms: int = 0

    @classmethod
    def of(cls, path: Path) -> Progress:
        """As the name of this file says."""
        if (found := _NAME.fullmatch(path.stem)) is None:
            return cls(path.stem)
        return cls(found["base"], int(found["offset"]), int(found["upto"] or 0), int(found["tried"] or 0))

    def rename(self, path: Path) -> Path:
        """Have the name of this file say so."""
        tried = f"~{self.upto}~{self.tried_ms}" if self.is_tried else ""
        return path.rename(path.with_name(f"{self.base}{tried}~{self.offset}.jsonl"))

    @property
    def is_tried(self) -> bool:
        """Whether what comes next was tried before."""
        return self.upto > self.offset

    @property
    def next_bytes(self) -> int:
        """So much is replayed next: what was tried first, for the rest was not."""
        return self.upto - self.offset if self.is_tried else AT_ONCE_BYTES

    def trying(self, size: int, now_ms: int) -> Progress:
        """The next `size` bytes are tried, from now on unless they were before."""
        return self if self.is_tried else replace(self, upto=self.offset + size, tried_ms=now_ms)

    def after(self, size: int, *, untried: bool) -> Progress:
        """These bytes are done with. untried: Redis has not heard of what follows either."""
        return replace(self, offset=self.offset + size, upto=0 if untried else self.upto)


class Later:
    """A file for lines that are to be tried again after a while; made when there is the first.

    moment_ms: tells when, by the wall clock.
    """

    def __init__(self, folder: Path, moment_ms: Callable[[], int]) -> None:
        self._folder = folder
        self._moment_ms = moment_ms
        self._fd: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def add(self, lines: bytes) -> None:
        """Write these lines durably. Raises OSError."""
        if not lines:
            return
        if self._fd is None:
            self._fd = create(self._folder, self._moment_ms())
        append(self._fd, lines)


def read_lines(file: BufferedReader, size: int) -> list[bytes]:
    """Lines until there are so many bytes; a line that is too long comes in pieces."""
    lines: list[bytes] = []
    while size > 0 and (line := file.readline(_MOST_LINE_BYTES)):
        lines.append(line)
        size -= len(line)
    return lines


def append(fd: int, lines: bytes) -> None:
    """Write all of it durably, or nothing. Raises OSError."""
    size = os.fstat(fd).st_size
    try:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except OSError:
        # A disk that is full takes a part. Half a line would make the next one unreadable.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise


def create(folder: Path, moment_ms: int) -> int:
    """A new file, locked, whose name survives a power cut as its lines will; returns its descriptor.

    moment_ms: it is not replayed before that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = folder / f"{moment_ms}-{os.getpid()}-{os.urandom(3).hex()}~0.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if path.exists():
            break
        # Somebody saw it before it was locked, and took away what they thought an empty file of a dead process.
        os.close(fd)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return fd


def waits(path: Path, now_ms: int, retry_ms: int) -> bool:
    """Whether the moment of a file has not come yet. One that is further away is of a clock that was set back."""
    moment = path.name.partition("-")[0]
    return moment.isdecimal() and len(moment) < 16 and 0 < int(moment) - now_ms <= retry_ms


def open_if_nobody_has_it(path: Path) -> BufferedReader | None:
    """The file, locked; None if a living process writes or replays it. Raises OSError, also for what is no file."""
    try:
        # A pipe would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    file = os.fdopen(fd, "rb") if stat.S_ISREG(os.fstat(fd).st_mode) else None
    if file is None:
        os.close(fd)
        raise OSError("no regular file")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if not path.exists():
        # Somebody was quicker: it is done with, or has another name.
        file.close()
        return None
    return file


def set_aside(folder: str) -> list[str]:
    """The names of the files in which lines wait for an operator, and of those that cannot be read."""
    try:
        names = [path for path in Path(folder).iterdir() if path.suffix in (".bad", ".jsonl")]
    except OSError:
        return []
    return sorted(path.name for path in names if path.suffix == ".bad" or not os.access(path, os.R_OK) or path.is_dir())


def writable(folder: str) -> str | None:
    """Why the spool cannot be kept in this folder; None if it can."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return f"cannot write to {path}: {error.strerror}"
    return None

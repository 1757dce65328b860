"""An append-only file for settlements while Redis is away.

One file for each process, locked while it lives; the files of dead processes are replayed by the living. A line is on
the disk (fsync) when `append` returns; lines that wait are written together. How far a file has been replayed stands in
its name, so a replay that is interrupted goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable
from io import BufferedReader
from pathlib import Path

import msgspec
import structlog

from sentinel.clock import now_ms
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Ask, Triple

log = structlog.get_logger()

MOST_WAITING = 10_000
_AT_ONCE_BYTES = 16 * 1024
"""Replayed at once, about 80 lines: what is kept in memory, and at most what is settled again after a kill."""


class Settlement(msgspec.Struct, frozen=True):
    """One settlement: everything the ledger needs. started_ms and at_ms: when it was reserved, and spent."""

    id: str
    user: str
    email: str
    model: str
    spent: Triple
    started_ms: int
    at_ms: int

    @classmethod
    def of(cls, ask: Ask, spent: Triple, started_ms: int) -> Settlement:
        """The settlement of this request, spent now."""
        return cls(ask.id, ask.user, ask.email, ask.model, spent, started_ms, now_ms())

    def ask(self) -> Ask:
        """The request it belongs to."""
        return Ask(self.id, self.user, self.email, self.model, 0, 0)


class Spool:
    """The spool of one process, in `folder`. depth: lines of this process that wait."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Lock = asyncio.Lock()
        self.depth = 0

    async def append(self, settlement: Settlement) -> None:
        """Write it down durably. Raises OSError when the disk does not take it, or far too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            raise OSError("the spool cannot keep up")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((msgspec.json.encode(settlement) + b"\n", done))
        async with self._writing:
            if not done.done():
                await self._write_waiting()
        await done
        self.depth += 1

    async def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            await asyncio.to_thread(self._write, b"".join(line for line, _ in waiting))
        except OSError as error:
            for _, done in waiting:
                if not done.done():
                    done.set_exception(OSError(error.errno, error.strerror))
            return
        for _, done in waiting:
            if not done.done():
                done.set_result(None)

    def _write(self, lines: bytes) -> None:
        if self._fd is None:
            self._fd = _create(self._folder)
        size = os.fstat(self._fd).st_size
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fsync(self._fd)
        except OSError:
            # A disk that is full takes a part. Half a line would make the next one unreadable.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            raise

    async def replay(self, settle: Callable[[Settlement], Awaitable[object]]) -> int:
        """Hand every line of our file, and of dead processes' files, to `settle`; returns how many it took.

        settle must not mind a line that it had before. Stops where it raises RedisUnavailable; the rest stays.
        """
        async with self._writing:
            self._let_go()
        taken = 0
        for path in self._files():
            taken += await self._replay_file(path, settle)
        return taken

    def _files(self) -> list[Path]:
        """What there is, the oldest first."""
        return sorted(self._folder.glob("*.jsonl"))

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def _replay_file(self, path: Path, settle: Callable[[Settlement], Awaitable[object]]) -> int:
        taken = 0
        file = _open_if_nobody_has_it(path)
        if file is None:
            return 0
        with file:
            while lines := await asyncio.to_thread(file.readlines, _AT_ONCE_BYTES):
                count = await _settle_lines(lines, settle)
                taken += count
                self.depth = max(0, self.depth - count)
                path = _moved_on(path, sum(len(line) for line in lines[:count]))
                if count < len(lines):
                    return taken
            path.unlink()
        return taken

    def waiting_files(self) -> bool:
        """Whether there is anything to replay, of ours or of a dead process."""
        return next(self._folder.glob("*.jsonl"), None) is not None


async def _settle_lines(lines: list[bytes], settle: Callable[[Settlement], Awaitable[object]]) -> int:
    """Settle these lines at the same time, in their order; returns how many are done, from the first one on."""
    results = await asyncio.gather(*(_settle_line(line, settle) for line in lines))
    return results.index(False) if False in results else len(lines)


async def _settle_line(line: bytes, settle: Callable[[Settlement], Awaitable[object]]) -> bool:
    try:
        settlement = msgspec.json.decode(line, type=Settlement)
    except msgspec.DecodeError:
        # Only the last line of a killed process can be torn, and its request was never done.
        log.warning("a torn line in the spool is skipped", bytes=len(line))
        return True
    try:
        await settle(settlement)
    except RedisUnavailable:
        return False
    return True


def _create(folder: Path) -> int:
    """A new file, locked, whose name survives a power cut as its lines will; returns its descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = folder / f"{now_ms()}-{os.getpid()}-{os.urandom(3).hex()}~0.jsonl"
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


def _open_if_nobody_has_it(path: Path) -> BufferedReader | None:
    """The file, locked, where its replay has to go on; None if a living process writes or replays it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if not path.exists():
        # Somebody was quicker: it is done with, or has another name.
        file.close()
        return None
    file.seek(_offset(path))
    return file


def _offset(path: Path) -> int:
    """How much of a file has been replayed, bytes."""
    offset = path.stem.rpartition("~")[2]
    return int(offset) if offset.isdecimal() else 0


def _moved_on(path: Path, size: int) -> Path:
    """The file under the name that says that `size` more bytes of it have been replayed."""
    return path.rename(path.with_name(f"{path.stem.partition('~')[0]}~{_offset(path) + size}.jsonl"))


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

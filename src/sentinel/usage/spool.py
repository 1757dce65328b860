"""An append-only file for settlements while Redis is away.

One file for each process, locked while it lives; the files of dead processes are replayed by the living. A line is on
the disk (fsync) when `append` returns; lines that wait are written together.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from sentinel.clock import now_ms
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Ask, Triple

log = structlog.get_logger()

MOST_WAITING = 10_000


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
    """The spool of one process, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None
        self._path: Path | None = None
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
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path = self._folder / f"{os.getpid()}-{now_ms()}-{os.urandom(3).hex()}.jsonl"
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, lines)
        os.fsync(self._fd)

    async def replay(self, settle: Callable[[Settlement], Awaitable[object]]) -> int:
        """Hand every line of our file, and of dead processes' files, to `settle`; returns how many it took.

        settle must not mind a line that it had before. Stops where it raises RedisUnavailable; the rest stays.
        """
        async with self._writing:
            self._let_go()
        taken = 0
        for path in sorted(self._folder.glob("*.jsonl")) if self._folder.is_dir() else []:
            taken += await self._replay_file(path, settle)
        return taken

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def _replay_file(self, path: Path, settle: Callable[[Settlement], Awaitable[object]]) -> int:
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return 0
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            lines = (await asyncio.to_thread(path.read_bytes)).splitlines()
            taken = await self._settle_lines(lines, settle)
            if taken == len(lines):
                await asyncio.to_thread(path.unlink)
            else:
                await asyncio.to_thread(_rewrite, fd, b"".join(line + b"\n" for line in lines[taken:]))
            self.depth = max(0, self.depth - taken)
            return taken
        finally:
            os.close(fd)

    async def _settle_lines(self, lines: list[bytes], settle: Callable[[Settlement], Awaitable[object]]) -> int:
        for position, line in enumerate(lines):
            try:
                settlement = msgspec.json.decode(line, type=Settlement)
            except msgspec.DecodeError:
                # Only the last line of a killed process can be torn, and its request was never done.
                log.warning("a torn line in the spool is skipped", bytes=len(line))
                continue
            try:
                await settle(settlement)
            except RedisUnavailable:
                return position
        return len(lines)

    def waiting_files(self) -> bool:
        """Whether there is anything to replay, of ours or of a dead process."""
        return self._folder.is_dir() and next(self._folder.glob("*.jsonl"), None) is not None


def _rewrite(fd: int, content: bytes) -> None:
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, content)
    os.ftruncate(fd, len(content))
    os.fsync(fd)


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

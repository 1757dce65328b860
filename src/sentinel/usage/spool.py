"""An append-only file for settlements while Redis is away.

One file for each process, locked while it lives; the files of dead processes are replayed by the living. A line is on
the disk (fsync) when `append` returns; lines that wait are written together. How far a file has been replayed stands in
its name, so a replay that is interrupted goes on where it was.

One line that cannot be replayed stops none behind it. What cannot be read, and what nobody knows about, goes to a file
`*.bad` beside the spool, for an operator; renamed to `*.jsonl` it is replayed once more. What Redis refuses for the
keys of its user is tried again every few seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from sentinel.clock import now_ms
from sentinel.error import NotSent, RedisRefused, RedisUnavailable
from sentinel.limits.policy import Cost, Reservation
from sentinel.usage.spool_files import (
    RETRY_MS,
    Later,
    Progress,
    append,
    create,
    open_if_nobody_has_it,
    read_lines,
    waits,
)

log = structlog.get_logger()

MOST_WAITING = 10_000
_MOST_NAMED = 1000

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What Redis' scripts compute with exactly."""
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Settlement(msgspec.Struct, frozen=True):
    """One settlement: everything the ledger needs. started_ms and at_ms: when it was reserved, and spent.

    tried_ms: when Redis was first told, and may have carried it out; 0 = it has never heard of it. incarnation: of what
    Redis remembered then (RedisLedger.incarnations), "" = not known.
    """

    id: _Text
    user: _Text
    email: str
    model: str
    spent: Cost
    started_ms: _Number
    at_ms: Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800_000)]
    tried_ms: _Number = 0
    incarnation: str = msgspec.field(default="", name="life")
    """By its first name in the file: what an older version has written is read, too."""
    cost_micro_usd: _Number = 0

    @classmethod
    def of(
        cls,
        reservation: Reservation,
        spent: Cost,
        started_ms: int,
        at_ms: int,
        tried_ms: int = 0,
        incarnation: str = "",
        cost_micro_usd: int = 0,
    ) -> Settlement:
        """The settlement of this request."""
        return cls(
            reservation.id,
            reservation.user,
            reservation.email,
            reservation.model,
            spent,
            started_ms,
            at_ms,
            tried_ms,
            incarnation,
            cost_micro_usd,
        )

    def reservation(self) -> Reservation:
        """The request it belongs to."""
        return Reservation(self.id, self.user, self.email, self.model, 0, 0)


class Unsure(Exception):
    """Nobody knows whether a settlement was carried out before."""


Settle = Callable[[Settlement], Awaitable[object]]
_decode = msgspec.json.Decoder(Settlement).decode


class _Fate(Enum):
    """What becomes of a line.

    BAD and UNSURE are set aside, REFUSED is tried again later; AWAY and UNSENT stop the replay: Redis may have carried
    the line out, or has never heard of it.
    """

    DONE = "done"
    BAD = "unreadable"
    UNSURE = "unsure"
    REFUSED = "refused"
    AWAY = "away"
    UNSENT = "unsent"


_STOP = (_Fate.AWAY, _Fate.UNSENT)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line, what it says, and what became of it."""

    raw: bytes
    fate: _Fate
    settlement: Settlement | None = None

    def kept(self) -> bytes:
        """The line as it is written down once more, for an operator or for the next try."""
        if self.settlement is None:
            return self.raw if self.raw.endswith(b"\n") else self.raw + b"\n"
        # Whoever has an unsure line replayed again has found out that it was not carried out.
        tried_ms = 0 if self.fate is _Fate.UNSURE else self.settlement.tried_ms
        return _packed(msgspec.structs.replace(self.settlement, tried_ms=tried_ms))


class Spool:
    """The spool of one process, in `folder`. depth: lines of this process that wait.

    on_unreadable is called for each line, or file, that cannot be read. wall_ms: the clock on the wall. retry_ms: so
    long a line waits that Redis refused.
    """

    def __init__(
        self,
        folder: Path,
        on_unreadable: Callable[[], None] = lambda: None,
        wall_ms: Callable[[], int] = now_ms,
        retry_ms: int = RETRY_MS,
    ) -> None:
        self._wall_ms, self._retry_ms = wall_ms, retry_ms
        self._folder = folder
        self._on_unreadable = on_unreadable
        self._fd: int | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Lock = asyncio.Lock()
        self._named: set[str] = set()
        self._stops = 0
        self.depth = 0

    async def append(self, settlement: Settlement) -> None:
        """Write it down durably. Raises OSError when the disk does not take it, or far too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            raise OSError("the spool cannot keep up")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((_packed(settlement), done))
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
            self._fd = create(self._folder, self._wall_ms())
        append(self._fd, lines)

    # ----------------------------------------------------------------------------------------------------- replaying

    async def replay(self, settle: Settle) -> int:
        """Hand every line of our file, and of dead processes' files, to `settle`; returns how many were done with.

        settle must not mind a line that it had before; it raises Unsure where it cannot tell. Stops where it raises
        RedisUnavailable; the rest stays. Ours comes last, and only when the others did not stop: while Redis is there
        and takes nothing, each try would leave a file behind, and the next settlement begin another.
        """
        with Later(self._folder, lambda: self._wall_ms() + self._retry_ms) as later:
            before = self._stops
            taken = await self._replay_files(settle, later)
            if self._fd is not None and self._stops == before:
                async with self._writing:
                    self._let_go()
                taken += await self._replay_files(settle, later)
        return taken

    async def _replay_files(self, settle: Settle, later: Later) -> int:
        taken = 0
        for path in self._files():
            try:
                taken += await self._replay_file(path, settle, later)
            except OSError as error:
                self._skip(path, error)
        return taken

    def _files(self) -> list[Path]:
        """What there is to replay now, the oldest first."""
        return sorted(path for path in self._folder.glob("*.jsonl") if not self._waits(path))

    def _waits(self, path: Path) -> bool:
        return waits(path, self._wall_ms(), self._retry_ms)

    def waiting_files(self) -> bool:
        """Whether there is anything to replay, of ours or of a dead process."""
        return any(not self._waits(path) for path in self._folder.glob("*.jsonl"))

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _skip(self, path: Path, error: OSError) -> None:
        """A file that cannot be read stays where it is, for an operator; it is told of once."""
        base = Progress.of(path).base
        if base in self._named or len(self._named) >= _MOST_NAMED:
            return
        self._named.add(base)
        self._on_unreadable()
        log.error("a file of the spool cannot be replayed", file=path.name, reason=error.strerror or str(error))

    async def _replay_file(self, path: Path, settle: Settle, later: Later) -> int:
        taken, progress = 0, Progress.of(path)
        file = open_if_nobody_has_it(path)
        if file is None:
            return 0
        with file:
            file.seek(progress.offset)
            while raw := await asyncio.to_thread(read_lines, file, progress.next_bytes):
                was_tried, earlier_ms = progress.is_tried, progress.tried_ms if progress.is_tried else 0
                progress = progress.trying(sum(map(len, raw)), self._wall_ms())
                path = progress.rename(path)
                lines = await asyncio.gather(*(_settle_line(line, earlier_ms, settle) for line in raw))
                done, rest = _until_stop(lines)
                if any(line.fate is not _Fate.DONE for line in done):
                    await asyncio.to_thread(self._put, progress.base, done, later)
                taken += len(done)
                self.depth = max(0, self.depth - len(done))
                untried = not was_tried and all(line.fate is _Fate.UNSENT for line in rest)
                progress = progress.after(sum(len(line.raw) for line in done), untried=untried)
                if rest:
                    self._stops += 1
                    progress.rename(path)
                    return taken
            path.unlink()
        return taken

    def _put(self, base: str, lines: list[_Line], later: Later) -> None:
        """Write down what is not done with, before the file moves on. Raises OSError."""
        if bad := b"".join(line.kept() for line in lines if line.fate in (_Fate.BAD, _Fate.UNSURE)):
            fd = os.open(self._folder / f"{base}-set-aside.bad", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                append(fd, bad)
            finally:
                os.close(fd)
        later.add(b"".join(line.kept() for line in lines if line.fate is _Fate.REFUSED))
        for line in lines:
            if line.fate is _Fate.BAD:
                self._on_unreadable()
            if line.fate is not _Fate.DONE:
                log.error("a line of the spool is set aside", file=base, bytes=len(line.raw), why=line.fate.value)


async def _settle_line(raw: bytes, earlier_ms: int, settle: Settle) -> _Line:
    """earlier_ms: when the line was handed out before, perhaps by a process that has died since; 0 = never."""
    try:
        settlement = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Line(raw, _Fate.BAD)
    if earlier_ms and (not settlement.tried_ms or earlier_ms < settlement.tried_ms):
        settlement = msgspec.structs.replace(settlement, tried_ms=earlier_ms)
    fate = _Fate.DONE
    try:
        await settle(settlement)
    except Unsure:
        fate = _Fate.UNSURE
    except RedisRefused:
        fate = _Fate.REFUSED
    except NotSent:
        fate = _Fate.UNSENT
    except RedisUnavailable:
        fate = _Fate.AWAY
    return _Line(raw, fate, settlement)


def _until_stop(lines: list[_Line]) -> tuple[list[_Line], list[_Line]]:
    """The lines before the first at which Redis was away, and the rest."""
    count = next((place for place, line in enumerate(lines) if line.fate in _STOP), len(lines))
    return lines[:count], lines[count:]


def _packed(settlement: Settlement) -> bytes:
    return msgspec.json.encode(settlement) + b"\n"
